// The page Checkpoints: what is kept of every run, which one is served, and downloads.
import { at, get, query, send } from './api.js';
import { on, jobs, jobList, loadJobs } from './state.js';
import { h, fill, int, bytes, ago, toast, empty, head, field, keepInAddress, settle } from './ui.js';

const PAGE = 50;

// What requests without a checkpoint get; what: an id, "live" or "auto".
export async function serve(what) {
  try {
    const s = await send('PUT', '/v1/served', { checkpoint: what });
    toast(s.checkpoint ? `Checkpoint ${s.checkpoint} is served.` : `Now served: ${s.text}.`);
  } catch (e) { toast(e.message, true); }
}

export function mount(root, params) {
  let job = params.get('job') ?? '', list = [], cursor = '', turn = 0, closed = false;
  const pick = h('select', { onchange: () => { job = pick.value; keepInAddress('checkpoints', query({ job })); load(); } });
  const box = h('div.card.scroll', { tabindex: '0', role: 'region', 'aria-label': 'Checkpoints' });
  const older = h('button', { type: 'button', hidden: true, onclick: () => load(cursor) }, 'Older ones');
  fill(root, head('Checkpoints', 'Weights of every run at some of its steps. The served one answers requests that name none.', field('Run', pick)), box, older);

  const row = (c) => {
    const generator = (c.net ?? 'generator') === 'generator';
    const run = c.job ? h('a', { href: `#/curves?runs=${c.job}` }, `${c.job} ${jobs.get(c.job)?.name ?? ''}`) : c.name || 'imported';
    return h('tr', { data: { checkpoint: c.id } }, h('th', { scope: 'row' }, c.id), h('td', null, run), h('td', null, c.net ?? '–'), h('td', null, int(c.step)), h('td', null, bytes(c.bytes)), h('td', null, ago(c.created)),
      h('td', null, c.active ? h('span.badge', { data: { state: 'completed' } }, 'served') : c.state === 'ok' ? (c.best ? 'best' : '') : c.state),
      h('td.row-actions', null,
        c.state === 'ok' && !c.active && generator ? h('button.quiet', { type: 'button', 'aria-label': `Serve checkpoint ${c.id}`, onclick: () => serve(c.id).then(() => load()) }, 'Serve') : null,
        c.active ? h('button.quiet', { type: 'button', 'aria-label': `Serve checkpoint ${c.id} no longer`, onclick: () => serve('auto').then(() => load()) }, 'Stop serving') : null,
        c.state === 'ok' && generator ? h('a.button.quiet', { href: `#/play?checkpoint=${c.id}`, 'aria-label': `Try checkpoint ${c.id}` }, 'Try') : null,
        h('a.button.quiet', { href: at(`/v1/checkpoints/${c.id}/file`), 'aria-label': `Download checkpoint ${c.id}` }, 'Download')));
  };
  async function load(from = '') {
    const mine = ++turn;
    try {
      if (!jobs.size) await loadJobs();
      const page = await get(`/v1/checkpoints?${query({ limit: PAGE, job, cursor: from })}`);
      if (closed || mine !== turn) return;
      list = from ? [...list, ...page.checkpoints] : page.checkpoints;
      cursor = page.next_cursor ?? '';
    } catch (e) { toast(e.message, true); return; }
    older.hidden = !cursor;
    runs();
    if (!list.length) { fill(box, empty('No checkpoints yet', 'A run writes its first after a minute or 500 steps.')); return; }
    const titles = ['id', 'run', 'network', 'step', 'size', 'written', 'state'];
    fill(box, h('table', null, h('thead', null, h('tr', null, titles.map((c) => h('th', { scope: 'col' }, c)), h('th', { scope: 'col' }, h('span.sr', null, 'actions')))), h('tbody', null, list.map(row))));
  }
  function runs() {
    fill(pick, h('option', { value: '', selected: !job }, 'every run'), jobList().filter((j) => j.kind !== 'eval' && j.kind !== 'import').map((j) => h('option', { value: j.id, selected: j.id === job }, `${j.id} ${j.name || j.recipe}`)));
  }
  settle(root, load());
  const off = [on('checkpoint', () => load()), on('refetch', () => load()), on('served', () => load())];
  return () => { closed = true; off.forEach((f) => f()); };
}
