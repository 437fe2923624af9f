// The status page: the daemon's state from /v1/status and /readyz.
import { at, get, poll, secured } from './api.js';
import { h, fill, text, num, int, bytes, duration, head, debounce, fileLink, settle } from './ui.js';
import { on, jobs } from './state.js';
import { serve } from './checkpoints.js';
import { backup, work } from './backup.js';

// Opens in the browser, or as a file where a token is needed.
const shown = (path, name, label) => (secured() ? fileLink('a', path, name, {}, label) : h('a', { href: at(path) }, label));

export function mount(root) {
  const cards = h('div.cards');
  fill(root, head('Status', 'The daemon, its stores and what it serves.'), cards,
    h('p.links', null, shown('/metrics', 'metrics.txt', 'Prometheus metrics'), ' · ', h('a', { href: at('/openapi.json') }, 'OpenAPI document'), ' · ', shown('/v1/status', 'status.json', 'status as JSON')));
  const card = (title, rows, ...more) => h('section.card', { 'aria-label': title }, h('h2', null, title),
    h('dl', null, rows.filter(Boolean).map(([k, v]) => [h('dt', null, k), h('dd', null, v)])), more);

  // A counter of what should not happen is shown once it has.
  const counted = (title, n) => (n ? [title, int(n)] : null);
  const words = { promoted: 'promoted', completed: 'newest completed run', live: 'live run', latest: 'newest checkpoint' };
  function served(s) {
    if (!s?.why) return 'nothing yet';
    const step = s.step === null ? '' : `, step ${int(s.step)}`;
    return `${s.checkpoint ? `checkpoint ${s.checkpoint}` : `run ${s.job ?? ''}`}${step} (${words[s.why]})`;
  }
  // The same elements at every refresh, so that the focus stays.
  const modes = [['auto', 'Serve automatically', 'The final checkpoint of the newest completed run; before there is one, the live run'],
    ['live', 'Serve the live run', 'The averaged weights of the running run, as they are now']].map(([mode, label, title]) =>
    h('button', { type: 'button', title, data: { serve: mode }, onclick: () => serve(mode).then(load) }, label));
  const copy = h('button', { type: 'button', onclick: () => backup(progress) }, 'Download a backup'), how = h('p.sub', { 'aria-live': 'polite' });
  function progress() {
    const w = work.now;
    copy.disabled = Boolean(w);
    text(how, w?.files ? `${int(w.done)} of ${int(w.files)} files, ${bytes(w.bytes)} of ${bytes(w.total)}` : w ? 'freezing the files' : 'Database, checkpoints, samples and data sets at one moment, as a tar.');
  }

  let closed = false;
  async function load() {
    let s, ready;
    try { s = await get('/v1/status'); } catch (e) { fill(cards, h('p.error', null, e.message)); return; }
    if (closed) return;
    try { await get('/readyz'); ready = 'ready'; } catch (e) { ready = e.message; }
    const t = s.training, g = s.generation, device = (g.device ?? '–').replace(/\)$/, '').split(/ \(|, /);
    for (const b of modes) b.disabled = g.served?.mode === b.dataset.serve;
    progress();
    const focused = document.activeElement;
    fill(cards,
      card('Daemon', [['state', s.state], ['readiness', ready], ['version', `${s.version} (${s.git})`], ['up for', duration(s.uptime_seconds)], ['queued runs', int(s.queued_jobs)]]),
      card('Device', [...device.map((part, i) => [i ? '' : 'computes on', part]), ['machine', s.machine?.description ?? '–']]),
      card('Training', t ? [['run', `${t.job} ${jobs.get(t.job)?.name ?? t.name}`], ['step', `${int(t.step)} / ${int(t.steps_total)}`], ['rate', `${num(t.steps_per_second, 3)} steps / s`], ['left', duration(t.eta_seconds)], ['loss', num(t.loss)], ['drift norm', num(t.drift_norm)]]
        : [['run', 'none']]),
      card('Generation', [['serving', served(g.served)], ['images', int(g.images)], ['batches', int(g.batches)], ['rate', g.images_per_second ? `${g.images_per_second < 1000 ? num(g.images_per_second, 3) : int(g.images_per_second)} images / s` : '–'], ['waiting', `${int(g.waiting)} of ${int(g.queue_limit)}`], counted('failed', g.failed), counted('client left', g.abandoned)], h('div.line.wrap', { role: 'group', 'aria-label': 'What is served' }, modes)),
      card('Store', [['database', bytes(s.store.bytes)], ['disk free', bytes(s.store.disk_free)], counted('failed writes', s.store.failures), counted('metric rows dropped', s.store.metrics_dropped), counted('failed checkpoints', s.store.checkpoint_failures)], how, h('div.line.wrap', null, copy)),
      card('HTTP', [['requests', int(s.http?.requests)], counted('refused (4xx)', s.http?.responses_4xx), counted('come back later (503)', s.http?.responses_503), counted('failed (5xx)', s.http?.responses_5xx), counted('rejected (429)', s.http?.shed), ['connections', int(s.http?.connections)], ['event streams', int(s.http?.sse_clients)]]));
    if ([copy, ...modes].includes(focused)) focused.focus();
  }
  const polls = poll(load, 3000, () => !document.hidden), soon = debounce(load, 250), off = on('served', soon);
  settle(root, polls.first);
  return () => { closed = true; polls.end(); soon.cancel(); off(); };
}
