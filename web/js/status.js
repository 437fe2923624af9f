// The status page: the daemon's state from /v1/status and /readyz, and its checkpoints.
import { at, get, send } from './api.js';
import { h, fill, num, int, bytes, duration, ago, toast, head } from './ui.js';
import { on, jobs, loadJobs } from './state.js';

export function mount(root) {
  const cards = h('div.cards'), table = h('div.card.scroll', { tabindex: '0', role: 'region', 'aria-label': 'Checkpoints' });
  fill(root, head('Status', 'The daemon, its stores and what it serves.'), cards, h('h2.section', null, 'Checkpoints'), table,
    h('p.links', null, h('a', { href: at('/metrics') }, 'Prometheus metrics'), ' · ', h('a', { href: at('/openapi.json') }, 'OpenAPI document'), ' · ', h('a', { href: at('/v1/status') }, 'status as JSON')));
  const card = (title, rows, ...more) => h('section.card', { 'aria-label': title }, h('h2', null, title),
    h('dl', null, rows.filter(Boolean).map(([k, v]) => [h('dt', null, k), h('dd', null, v)])), more);

  // What requests without a checkpoint get; what: an id, "live" or "auto".
  async function serve(what) {
    try {
      const s = await send('PUT', '/v1/served', { checkpoint: what });
      toast(s.checkpoint ? `Checkpoint ${s.checkpoint} is served.` : `Now served: ${s.text}.`);
      checkpoints();
      load();
    } catch (e) { toast(e.message, true); }
  }
  const words = { promoted: 'promoted', completed: 'newest completed run', live: 'live run', latest: 'newest checkpoint' };
  function served(s) {
    if (!s?.why) return 'nothing yet';
    const step = s.step === null ? '' : `, step ${int(s.step)}`;
    return `${s.checkpoint ? `checkpoint ${s.checkpoint}` : `run ${s.job ?? ''}`}${step} (${words[s.why]})`;
  }
  const modes = (s) => h('div.line.wrap', { role: 'group', 'aria-label': 'What is served' },
    [['auto', 'Serve automatically', 'The final checkpoint of the newest completed run; before there is one, the live run'],
      ['live', 'Serve the live run', 'The averaged weights of the running run, as they are now']].map(([mode, label, title]) =>
      h('button.quiet', { type: 'button', title, data: { serve: mode }, disabled: s?.mode === mode, onclick: () => serve(mode) }, label)));

  async function load() {
    let s, ready;
    try { s = await get('/v1/status'); } catch (e) { fill(cards, h('p.error', null, e.message)); return; }
    try { await get('/readyz'); ready = 'ready'; } catch (e) { ready = e.message; }
    const t = s.training, g = s.generation, device = (g.device ?? '–').replace(/\)$/, '').split(/ \(|, /);
    fill(cards,
      card('Daemon', [['state', s.state], ['readiness', ready], ['version', `${s.version} (${s.git})`], ['up for', duration(s.uptime_seconds)], ['queued runs', int(s.queued_jobs)]]),
      card('Device', [...device.map((part, i) => [i ? '' : 'computes on', part]), ['machine', s.machine?.description ?? '–']]),
      card('Training', t ? [['run', `${t.job} ${jobs.get(t.job)?.name ?? t.name}`], ['step', `${int(t.step)} / ${int(t.steps_total)}`], ['rate', `${num(t.steps_per_second, 3)} steps / s`], ['left', duration(t.eta_seconds)], ['loss', num(t.loss)], ['drift norm', num(t.drift_norm)]]
        : [['run', 'none']]),
      card('Generation', [['serving', served(g.served)], ['images', int(g.images)], ['batches', int(g.batches)], ['rate', g.images_per_second ? `${g.images_per_second < 1000 ? num(g.images_per_second, 3) : int(g.images_per_second)} images / s` : '–'], ['waiting', `${int(g.waiting)} of ${int(g.queue_limit)}`], ['failed', int(g.failed)], ['abandoned', int(g.abandoned)]], modes(g.served)),
      card('Store', [['database', bytes(s.store.bytes)], ['disk free', bytes(s.store.disk_free)], ['failed writes', int(s.store.failures)], ['metric rows dropped', int(s.store.metrics_dropped)], ['failed checkpoints', int(s.store.checkpoint_failures)]]),
      card('HTTP', [['requests', int(s.http?.requests)], ['refused (4xx)', int(s.http?.responses_4xx)], ['failed (5xx)', int(s.http?.responses_5xx)], ['shed', int(s.http?.shed)], ['connections', int(s.http?.connections)], ['event streams', int(s.http?.sse_clients)]]));
  }
  async function checkpoints() {
    let list;
    try { if (!jobs.size) await loadJobs(); list = (await get('/v1/checkpoints?limit=50')).checkpoints; } catch (e) { toast(e.message, true); return; }
    if (!list.length) { fill(table, h('p.sub.pad', null, 'None yet; a run writes its first after a minute or 500 steps.')); return; }
    fill(table, h('table', null, h('thead', null, h('tr', null, ['id', 'run', 'network', 'step', 'size', 'written', 'state', ''].map((c) => h('th', { scope: 'col' }, c || h('span.sr', null, 'actions'))))),
      h('tbody', null, list.map((c) => h('tr', null, h('th', { scope: 'row' }, c.id), h('td', null, c.job ? `${c.job} ${jobs.get(c.job)?.name ?? ''}` : c.name || 'imported'),
        h('td', null, c.net ?? '–'), h('td', null, int(c.step)), h('td', null, bytes(c.bytes)), h('td', null, ago(c.created)), h('td', null, c.active ? 'served' : c.state),
        h('td.row-actions', null, c.state === 'ok' && !c.active && (c.net ?? 'generator') === 'generator' ? h('button.quiet', { type: 'button', 'aria-label': `Serve checkpoint ${c.id}`, onclick: () => serve(c.id) }, 'Serve')
          : c.active ? h('button.quiet', { type: 'button', 'aria-label': `Serve checkpoint ${c.id} no longer`, onclick: () => serve('auto') }, 'Stop serving') : null, h('a.button.quiet', { href: at(`/v1/checkpoints/${c.id}/file`), 'aria-label': `Download checkpoint ${c.id}` }, 'Download')))))));
  }
  load();
  checkpoints();
  const timer = setInterval(() => { if (!document.hidden) load(); }, 3000);
  const off = [on('checkpoint', checkpoints), on('refetch', checkpoints), on('served', () => { checkpoints(); load(); })];
  return () => { clearInterval(timer); off.forEach((f) => f()); };
}
