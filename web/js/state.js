// The state of the server as the page knows it, updated by the event stream: jobs by id, the newest
// metric row of each, and listeners. After a gap or a restart it is fetched again.
import { get, pages, Stream } from './api.js';
import { clock, say, text, toast, num, int } from './ui.js';

export const jobs = new Map(); // id -> as in /v1/jobs, plus `newest` {step, loss, drift_norm, at}
export const server = { version: '', state: 'wait' };
const MOST = 5000; // jobs kept, the newest
const listeners = new Map(); // event type -> Set of functions

// Listens until the returned function is called. Types: those of the stream, and `jobs` (the list
// or one of its jobs changed), `refetch` (rows may have been missed), `stream` (connection state).
export function on(type, f) {
  if (!listeners.has(type)) listeners.set(type, new Set());
  listeners.get(type).add(f);
  return () => listeners.get(type).delete(f);
}

export function emit(type, data) {
  for (const f of listeners.get(type) ?? []) f(data);
}

export async function loadJobs() {
  const had = [...jobs.keys()], list = [];
  let more = false;
  for await (const page of pages('/v1/jobs')) {
    list.push(...page.jobs);
    more = !!page.next_cursor;
    if (list.length >= MOST) break;
  }
  if (more) list.push(...(await get('/v1/jobs?state=running')).jobs); // it may be older than those
  for (const j of list) jobs.set(j.id, { ...jobs.get(j.id), ...j });
  const seen = new Set(list.map((j) => j.id));
  if (!more) for (const id of had) if (!seen.has(id)) jobs.delete(id); // what came meanwhile stays
  emit('jobs');
}

// A job with its configuration and class names.
export async function jobDetail(id) {
  const have = jobs.get(id);
  if (have?.config) return have;
  return remember(await get(`/v1/jobs/${encodeURIComponent(id)}`));
}

export function remember(job) {
  jobs.set(job.id, { ...jobs.get(job.id), ...job });
  emit('jobs', job.id);
  return jobs.get(job.id);
}

export const jobList = () => [...jobs.values()].sort((a, b) => b.id - a.id);
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

const asked = new Set(); // jobs that are being fetched
// A job that the page does not know takes steps.
function missing(id) {
  if (asked.has(id)) return;
  asked.add(id);
  get(`/v1/jobs/${encodeURIComponent(id)}`).then(remember, () => {}).finally(() => asked.delete(id));
}

function metrics(d) {
  const row = d.rows[d.rows.length - 1];
  const j = jobs.get(d.job);
  if (!j) { missing(d.job); return; }
  const at = (name) => row[d.cols.indexOf(name)] ?? null;
  j.newest = { step: row[0], loss: at('loss'), drift_norm: at('drift_norm'), at: performance.now() };
  // Steps per second as seen from here, smoothed over about five seconds.
  const seen = j.seen, now = performance.now();
  if (seen && row[0] > seen.step && now > seen.at) {
    const dt = (now - seen.at) / 1000, keep = j.rate ? Math.exp(-dt / 5) : 0;
    j.rate = keep * (j.rate ?? 0) + ((1 - keep) * (row[0] - seen.step)) / dt;
    j.seconds = (j.seconds ?? 0) + dt;
  }
  j.seen = { step: row[0], at: now };
  j.step = row[0];
  j.progress = j.steps_total ? j.step / j.steps_total : 0;
  if (j.rate > 0) j.eta_seconds = Math.max(0, j.steps_total - j.step) / j.rate;
  if (j.state === 'queued') j.state = 'running';
}

// For the pages that are about progress, to call with the stream's metrics.
export function sayProgress(id) {
  const j = jobs.get(id);
  if (j?.newest) say(`${j.name || j.recipe}: step ${int(j.step)} of ${int(j.steps_total)}, drift norm ${num(j.newest.drift_norm, 3)}`);
}

function stateEvent(d) {
  const id = String(d.job);
  const j = jobs.get(id);
  if (d.state === 'removed') jobs.delete(id);
  else if (j) j.state = d.state;
  emit('jobs', id);
  if (d.state !== 'removed') {
    const name = j?.name || j?.recipe || `job ${id}`;
    say(`${name} is ${d.state}`, true);
    if (d.state === 'failed') toast(`${name} failed: ${d.error ?? 'no reason given'}`, true);
    get(`/v1/jobs/${id}`).then(remember, () => {});
  }
}

let hadHello = false;
function hello(d) {
  clock.behind = d.time - Date.now() / 1000;
  server.version = d.version;
  if (hadHello && !d.resumed) emit('refetch');
  loadJobs().catch((e) => toast(e.message, true));
  hadHello = true;
}

export function start() {
  const box = document.getElementById('stream');
  const words = { live: 'live', lost: 'reconnecting', wait: 'connecting', locked: 'no token' };
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
    if (state === 'lost') say('Can\'t reach driftd, retrying.', true);
    emit('stream', state);
  });
  stream.start();
}
