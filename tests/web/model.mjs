// The modules behind the page, without a browser: what is drawn of a run, the list of jobs, requests and the
// event stream, against a stand-in for the server. usage: model.mjs
import assert from 'node:assert/strict';
import { check, sleep, until } from './lib.mjs';

// ---- what a browser has ----

const element = () => ({ dataset: {}, children: [], querySelector: element, append() {}, remove() {} });
const page = new EventTarget();
globalThis.document = Object.assign(page, { hidden: false, getElementById: element, createElement: element, body: element() });
globalThis.sessionStorage = { getItem: () => null, setItem() {} };
globalThis.addEventListener = () => {};
const { setTimeout: soon, clearTimeout: dropSoon } = globalThis, later = new Map(); // what is to happen in ten seconds or more
globalThis.setTimeout = (f, ms) => { if (!(ms >= 10000)) return soon(f, ms); const key = {}; later.set(key, f); return key; };
globalThis.clearTimeout = (key) => { if (!later.delete(key)) dropSoon(key); };
function passTime() {
  const due = [...later.values()];
  later.clear();
  for (const f of due) f();
}

// ---- the server ----

let answer, streams = []; // answer(url, init): of everything but the stream
globalThis.fetch = async (address, init = {}) => {
  const url = new URL(address);
  init.signal?.throwIfAborted();
  if (!url.pathname.endsWith('/v1/events')) return answer(url, init);
  return new Response(new ReadableStream({ start(body) {
    init.signal.addEventListener('abort', () => body.error(init.signal.reason));
    streams.push({ headers: init.headers, signal: init.signal,
      send: (type, data, id) => body.enqueue(new TextEncoder().encode(`event: ${type}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`)) });
  } }));
};
const json = (o, status = 200) => new Response(JSON.stringify(o), { status, headers: { 'Content-Type': 'application/json' } });

const state = await import('../../web/js/state.js');
const { get, poll, post } = await import('../../web/js/api.js');
const { Run } = await import('../../web/js/runmodel.js');

// ---- curves ----

let stored = 50000; // steps; the loss of a step is a thousandth of it
function metrics({ searchParams: q }) {
  const from = Math.max(1, +(q.get('from') ?? 1)), to = Math.min(stored, +(q.get('to') ?? stored)), rows = [];
  if (!+q.get('max_points')) {
    for (let s = from; s <= to; s++) rows.push([s, 1e9 + s, s / 1000]);
    return json({ columns: ['step', 't', 'value'], series: [{ name: 'loss', rows }] });
  }
  for (let s = 1; s <= to; s += 64) {
    const last = Math.min(to, s + 63);
    rows.push([s, last, 1e9 + last, last - s + 1, s / 1000, last / 1000, last / 1000, last / 1000, 0]);
  }
  return json({ columns: ['first', 'last', 't', 'n', 'min', 'max', 'mean', 'last_value', 'nonfinite'], series: [{ name: 'loss', rows }] });
}
const rowsOf = (from, to, value = (s) => s / 1000) => ({ cols: ['step', 'loss'], rows: Array.from({ length: to - from + 1 }, (_, i) => [from + i, value(from + i)]) });
async function open(changed = () => {}) {
  const job = { id: '7', step: 50000, steps_total: 200000, kind: 'train', config: { metrics: { every: 1 } } };
  answer = metrics;
  stored = 50000;
  state.jobs.set('7', job);
  const run = new Run(job, ['loss'], 1, changed);
  await run.load();
  return run;
}
// What is drawn of steps a..b, with every step once.
function drawn(run, a, b) {
  const s = run.series('loss', a, b), x = [...s.x.subarray(s.find(a), s.find(b + 1))];
  assert.deepEqual(x, Array.from({ length: x.length }, (_, i) => a + i), `of ${a} to ${b}`);
  return { last: x.at(-1), value: s.mean[s.n - 1] };
}

await check('a zoomed view follows the run, and its resume from an earlier step', async () => {
  const run = await open();
  assert.equal(run.base.get('loss').width, 64);
  assert.ok(await run.refine(45000, 60000));
  for (let s = 50001; s <= 52000; s += 100) run.take(rowsOf(s, s + 99));
  assert.equal(drawn(run, 45000, 60000).last, 52000);
  assert.equal(await run.refine(45000, 60000), false, 'nothing is missing');
  run.starts();
  run.take(rowsOf(47001, 47010, () => -1));
  assert.deepEqual(drawn(run, 45000, 60000), { last: 47010, value: -1 });
  run.close();
});

await check('a zoomed view ends where it was asked to, and is fetched again beyond', async () => {
  const run = await open();
  assert.ok(await run.refine(49000, 50000)); // and half of that on both sides
  run.take(rowsOf(50001, 50600));
  assert.equal(drawn(run, 49000, 50500).last, 50500);
  stored = 50600;
  assert.ok(await run.refine(49000, 50600));
  assert.equal(drawn(run, 49000, 50600).last, 50600);
  run.close();
});

await check('rows and a resume while a finer piece is on its way', async () => {
  const run = await open(), held = [];
  answer = async (url) => { const res = metrics(url); await new Promise((r) => held.push(r)); return res; };
  const finer = run.refine(45000, 60000);
  await until('it is asked for', () => held.length === 1);
  run.take(rowsOf(50001, 50100)); // not in the answer
  held.pop()();
  assert.ok(await finer);
  assert.equal(drawn(run, 45000, 60000).last, 50100);

  run.detail = null;
  const again = run.refine(45000, 60000);
  await until('it is asked for', () => held.length === 1);
  run.starts();
  run.take(rowsOf(47001, 47010, () => -1));
  stored = 47000;
  answer = metrics;
  held.pop()();
  assert.ok(await again);
  assert.deepEqual(drawn(run, 45000, 60000), { last: 47010, value: -1 });
  run.close();
});

await check('what was loaded anew takes the place of a finer piece, which is fetched again', async () => {
  let loads = 0;
  const run = await open((whole) => { if (whole) loads++; });
  assert.ok(await run.refine(45000, 60000));
  stored = 47000;
  await run.load();
  assert.equal(loads, 2);
  assert.ok(await run.refine(45000, 60000));
  assert.equal(drawn(run, 45000, 60000).last, 47000);
  run.close();
});

await check('the first rows after a pause are of now', async () => {
  const run = await open(), now = Date.now() / 1000;
  run.lastTime = now - 7200;
  run.starts();
  run.take(rowsOf(50001, 50010));
  assert.ok(run.recent.every((r) => r.t > now - 1), run.recent.map((r) => r.t - now).join(' '));
  run.close();
});

// ---- the list of jobs ----

const job = (id, now) => ({ id: String(id), state: now, name: 'n', recipe: 'r', step: 1, steps_total: 2, kind: 'train' });
const gate = () => { let go; const passed = new Promise((r) => { go = r; }); return { go, passed }; };
state.jobs.clear();
answer = () => json({ jobs: [] });
state.start();
await until('the stream', () => streams.length === 1);

await check('what happens while the list comes page by page stays', async () => {
  const now = new Map([['1', 'running'], ['2', 'completed']]), second = gate();
  let asked = false;
  answer = async (url) => {
    const id = /\/v1\/jobs\/(\d+)$/.exec(url.pathname)?.[1];
    if (id) return now.has(id) ? json(job(id, now.get(id))) : json({}, 404);
    if (!url.searchParams.get('cursor')) return json({ jobs: [...now].map(([i, s]) => job(i, s)), next_cursor: 'x' });
    asked = true;
    await second.passed;
    return json({ jobs: [job(0, 'completed')] });
  };
  const list = state.loadJobs();
  await until('the second page is asked for', () => asked);
  now.set('1', 'completed');
  now.delete('2');
  streams[0].send('state', { job: '1', state: 'completed' }, '1-1');
  streams[0].send('state', { job: '2', state: 'removed' }, '1-2');
  await until('the end of 1', () => state.jobs.get('1')?.state === 'completed');
  second.go();
  await list;
  assert.equal(state.jobs.get('1').state, 'completed');
  assert.deepEqual([...state.jobs.keys()].sort(), ['0', '1']);
});

await check('of two answers about a job that cross, the later state stays', async () => {
  const first = gate();
  let now = 'pausing', asked = 0;
  answer = async () => { const res = json(job(1, now)); if (++asked === 1) await first.passed; return res; };
  streams[0].send('state', { job: '1', state: now }, '1-3');
  await until('it is asked for', () => asked === 1);
  now = 'paused';
  streams[0].send('state', { job: '1', state: now }, '1-4');
  await until('it is known', () => state.jobs.get('1').state === 'paused');
  first.go();
  await until('it is asked for again', () => asked === 2);
  await sleep(20);
  assert.equal(state.jobs.get('1').state, 'paused');
});

// ---- the stream ----

await check('a hidden tab lets go of its stream, and goes on where it was', async () => {
  const show = (yes) => { page.hidden = !yes; page.dispatchEvent(new Event('visibilitychange')); };
  answer = () => json({ jobs: [] });
  let refetched = 0;
  const off = state.on('refetch', () => refetched++);
  show(false);
  show(true);
  passTime();
  assert.equal(streams[0].signal.aborted, false, 'shown again in time');
  show(false);
  passTime();
  assert.ok(streams[0].signal.aborted);
  await until('the state', () => state.server.state === 'wait');
  await sleep(20);
  assert.equal(streams.length, 1, 'none while it is hidden');
  show(true);
  await until('another', () => streams.length === 2);
  assert.equal(streams[1].headers['Last-Event-ID'], '1-4');
  streams[1].send('hello', { time: Date.now() / 1000, version: '', resumed: true }, '1-4');
  streams[1].send('hello', { time: Date.now() / 1000, version: '', resumed: true }, '1-5');
  await until('rows are fetched again', () => refetched === 1);
  off();
});

// ---- a token's rate ----

const refusal = (retry_after, type = 'rate-limited') => json({ type: `urn:driftd:problem:${type}`, detail: 'no', retry_after }, 429);

await check('requests wait for the rate of their token', async () => {
  let left = 10, at = performance.now();
  answer = () => {
    const now = performance.now();
    left = Math.min(10, left + (now - at) / 20);
    at = now;
    return left >= 1 ? json({ left: left-- }) : refusal((1 - left) / 50);
  };
  const all = await Promise.all(Array.from({ length: 20 }, () => get('/v1/version')));
  assert.equal(all.length, 20);
});

await check('what changes something goes before what is only shown', async () => {
  let free = performance.now(); // when the token may ask again
  const done = [];
  answer = (url) => {
    const now = performance.now();
    if (now < free) return refusal((free - now) / 1000);
    free = now + 60;
    return json({});
  };
  const reads = Array.from({ length: 12 }, () => get('/v1/version').then(() => done.push('read')));
  const writes = ['stop', 'pause'].map((what) => post(`/v1/jobs/1/${what}`).then(() => done.push('write')));
  await Promise.all([...reads, ...writes]);
  assert.ok(done.lastIndexOf('write') < 8, done.join(' '));
});

await check('but not for ever, nor for anything else, nor once nobody waits', async () => {
  let asked = 0;
  answer = () => { asked++; return refusal(120); };
  await assert.rejects(get('/v1/version'), { status: 429 });
  answer = () => { asked++; return refusal(0.01, 'queue-full'); };
  await assert.rejects(get('/v1/version'), { status: 429 });
  assert.equal(asked, 2);
  const control = new AbortController();
  answer = () => { asked++; return refusal(30); };
  const waiting = get('/v1/version', { signal: control.signal });
  await until('it waits', () => later.size);
  control.abort();
  await assert.rejects(waiting, { name: 'AbortError' });
  assert.equal(asked, 3);
});

await check('a poll is not sent again while it is under way', async () => {
  const held = gate();
  let asked = 0;
  answer = async () => { asked++; await held.passed; return json({}); };
  const polls = poll(() => get('/v1/status'), 1);
  await sleep(50);
  assert.equal(asked, 1);
  held.go();
  await polls.first;
  await until('it goes on', () => asked > 1);
  polls.end();
});

process.exit(0);
