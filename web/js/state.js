// The state of the server as the page knows it, updated by the event stream: jobs by id, the newest
// metric row of each, and listeners. After a gap or a restart it is fetched again.
import { get, pages, Stream } from './api.js';
import { clock, say, text, toast, num, int } from './ui.js';

// id -> as in /v1/jobs, plus `newest` {step, loss, drift_norm, at}; of this start: `begun` (rows have
// come), `seen` {step, at} (the last of them), `pace` {steps, seconds} (sums that fade) and `rate` in steps
// per second.
export const jobs = new Map();
export const server = { version: '', state: 'wait' };
const MOST = 5000; // jobs kept, the newest
const listeners = new Map(); // event type -> Set of functions

// Listens until the returned function is called. Types: those of the stream, and `jobs` (the list
// or one of its jobs changed), `refetch` (rows may have been missed, requests failed), `stream` (connection state).
export function on(type, f) {
  if (!listeners.has(type)) listeners.set(type, new Set());
  listeners.get(type).add(f);
  return () => listeners.get(type).delete(f);
}

export function emit(type, data) {
  for (const f of listeners.get(type) ?? []) f(data);
}

// Answers to requests that were sent before a job's last `state` event are outdated.
const touched = new Map(); // id -> the number of that event
let events = 0;

export async function loadJobs() {
  const had = [...jobs.keys()], list = [], before = events;
  let more = false;
  for await (const page of pages('/v1/jobs')) {
    list.push(...page.jobs);
    more = !!page.next_cursor;
    if (list.length >= MOST) break;
  }
  if (more) list.push(...(await get('/v1/jobs?state=running')).jobs); // it may be older than those
  for (const j of list) if (!(touched.get(j.id) > before)) merge(j); // the others have requests of their own
  const seen = new Set(list.map((j) => j.id));
  if (!more) for (const id of had) if (!seen.has(id)) jobs.delete(id); // what came meanwhile stays
  emit('jobs');
}

// The server's row of a job into what the page knows of it. Rows of the stream may be ahead of it; what
// it is ahead of them has been missed, and its seconds hold that time.
function merge(job) {
  const had = jobs.get(job.id), now = { ...had, ...job };
  if (had?.seen?.step > job.step) now.step = had.seen.step;
  else if (had?.seen?.step < job.step) now.seen = undefined;
  jobs.set(job.id, now);
  return now;
}

// A job with its configuration and class names.
export async function jobDetail(id) {
  const have = jobs.get(id);
  return have?.config ? have : fetched(id);
}

const asked = new Set(); // jobs that are being fetched
// A job, fetched and remembered; once more where the stream was faster than the answer.
async function fetched(id) {
  asked.add(id);
  try {
    for (;;) {
      const before = touched.get(id), job = await get(`/v1/jobs/${encodeURIComponent(id)}`);
      if (touched.get(id) === before) return remember(job);
    }
  } finally { asked.delete(id); }
}
function ask(id) {
  if (!asked.has(id)) fetched(id).catch(() => {});
}

export function remember(job) {
  const now = merge(job);
  emit('jobs', job.id);
  return now;
}

export const jobList = () => [...jobs.values()].sort((a, b) => b.id - a.id);
// Runs train: they have curves and grids. Evaluations and imports are jobs beside them.
export const trains = (j) => j.kind !== 'eval' && j.kind !== 'import';
// What a page opens on by itself: of the runs that fit it the one that trains now, else the newest; undefined: there
// is none.
export function latestRun(fits = trains) {
  const all = jobList().filter((j) => trains(j) && fits(j));
  return all.find((j) => j.state === 'running') ?? all[0];
}
export const MOST_BESIDE = 24; // runs in one plot or one table of settings
// The newest of these ids, in their order; where some are left out, a note calls the rest `what`.
export function fewRuns(ids, what) {
  if (ids.length <= MOST_BESIDE) return ids;
  const newest = new Set([...ids].sort((a, b) => b - a).slice(0, MOST_BESIDE));
  toast(`${what} of the newest ${MOST_BESIDE} of ${int(ids.length)} runs.`);
  return ids.filter((id) => newest.has(id));
}
export const active = (j) => ['running', 'queued', 'paused', 'stopping'].includes(j.state);

// The colour of a run (an index of --run-N), the same on every page while the page is open: its own by
// its id, or another where one of the runs beside it had that first.
const colours = new Map();
export function colourOf(id, beside) {
  if (!colours.has(id)) {
    const taken = new Set(beside.filter((x) => x !== id && colours.has(x)).map((x) => colours.get(x)));
    let c = (Number(id) - 1) % 8;
    for (let i = 0; i < 8 && taken.has(c); i++) c = (c + 1) % 8;
    if (!beside.includes(id)) return c;
    colours.set(id, c);
  }
  return colours.get(id);
}

function metrics(d) {
  const row = d.rows[d.rows.length - 1];
  const j = jobs.get(d.job);
  if (!j?.begun) ask(d.job); // unknown, or with class names and settings only now
  if (!j) return;
  j.begun = true;
  const had = j.newest?.step === row[0] ? j.newest : null; // what is measured after a step has a row of its own
  const at = (name) => row[d.cols.indexOf(name)] ?? had?.[name] ?? null;
  j.newest = { step: row[0], loss: at('loss'), drift_norm: at('drift_norm'), at: performance.now() };
  // Steps per second as seen from here, over about the last five seconds. Events that were held up come a
  // moment apart (others: at most ten per second): what follows the first of a start at once says nothing, then
  // steps and time are summed before they are divided, and half a second is the least.
  const seen = j.seen, now = performance.now();
  if (seen && row[0] > seen.step && now - seen.at > (j.pace ? 0 : 50)) {
    const dt = (now - seen.at) / 1000, keep = Math.exp(-dt / 5), was = j.pace ?? { steps: 0, seconds: 0 };
    j.pace = { steps: keep * was.steps + row[0] - seen.step, seconds: keep * was.seconds + dt };
    if (j.pace.seconds >= 0.5) j.rate = j.pace.steps / j.pace.seconds;
    j.seconds = (j.seconds ?? 0) + dt;
  }
  j.seen = { step: row[0], at: now };
  j.step = row[0];
  if (j.config) reckon(j); // train.minutes is in it
  if (j.state === 'queued') j.state = 'running';
}

const limitOf = (j) => 60 * (j.config?.train?.minutes ?? 0); // in seconds; 0: none

// How far a run is and what is left, by steps or by train.minutes, whichever is further: as the server
// does it.
function reckon(j) {
  const limit = limitOf(j), seconds = j.seconds ?? 0, byStep = j.steps_total ? j.step / j.steps_total : 0;
  j.progress = Math.min(1, limit ? Math.max(byStep, seconds / limit) : byStep);
  const steps = j.rate > 0 ? Math.max(0, j.steps_total - j.step) / j.rate : Infinity;
  const left = Math.min(steps, limit ? Math.max(0, limit - seconds) : Infinity);
  if (left < Infinity) j.eta_seconds = left;
}

// The steps that a run will have taken; an estimate where train.minutes ends it before train.steps.
export function stepsTotal(j) {
  const limit = limitOf(j);
  if (!limit || !(j.step > 0 && j.seconds > 0)) return j.steps_total;
  return Math.min(j.steps_total, Math.max(j.step, Math.floor(limit / (j.seconds / j.step))));
}

// For the pages that are about progress, to call with the stream's metrics.
export function sayProgress(id) {
  const j = jobs.get(id);
  if (j?.newest) say(`${j.name || j.recipe}: step ${int(j.step)} of ${int(stepsTotal(j))}, drift norm ${num(j.newest.drift_norm, 3)}`);
}

function stateEvent(d) {
  const id = String(d.job);
  const j = jobs.get(id);
  touched.set(id, ++events);
  if (d.state === 'removed') jobs.delete(id);
  else if (j) Object.assign(j, { state: d.state, seen: undefined, pace: undefined, rate: undefined, begun: false }); // the next row counts no pause
  emit('jobs', id);
  if (d.state !== 'removed') {
    const name = j?.name || j?.recipe || `job ${id}`;
    say(`${name} is ${d.state}`, true);
    if (d.state === 'failed') toast(`${name} failed: ${d.error ?? 'no reason given'}`, true);
    ask(id);
  }
}

let hadHello = false, lost = false;
function hello(d) {
  clock.behind = d.time - Date.now() / 1000;
  server.version = d.version;
  if (lost || (hadHello && !d.resumed)) emit('refetch'); // what was asked for meanwhile has failed
  lost = false;
  for (const j of jobs.values()) j.begun = false; // a start may have been missed
  loadJobs().catch((e) => toast(e.message, true));
  hadHello = true;
}

export function start() {
  const box = document.getElementById('stream');
  const words = { live: 'live', lost: 'reconnecting', wait: 'connecting', locked: 'no access' };
  const stream = new Stream((type, d) => {
    if (type === 'hello') hello(d);
    else if (type === 'metrics') metrics(d);
    else if (type === 'state') stateEvent(d);
    else if (type === 'gap') { emit('refetch'); loadJobs().catch(() => {}); }
    else if (type === 'alert') toast(`${d.kind}: ${d.text ?? ''}`, true);
    emit(type, d);
  }, (state) => {
    server.state = state;
    box.dataset.state = state;
    text(box.querySelector('span'), words[state]);
    lost ||= state === 'lost' || state === 'wait'; // after 'wait' rows come all at once, and cannot be dated
    if (state === 'lost') say('Can\'t reach driftd, retrying.', true);
    emit('stream', state);
  });
  stream.start();
}
