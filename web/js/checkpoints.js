// The page Checkpoints: what is kept of every run, which one is served, downloads, and each one's name,
// tags and notes, in a row that opens.
import { get, query, raw, send } from './api.js';
import { on, jobs, jobList, loadJobs } from './state.js';
import { h, fill, int, bytes, when, clamp, toast, empty, head, field, fileLink, keepInAddress, saves, settle, unsaved } from './ui.js';

const PAGE = 50, MOST = 1000; // in one request
const narrow = matchMedia('(max-width: 860px)');

// What requests without a checkpoint get; what: an id, "live" or "auto".
export async function serve(what) {
  try {
    const s = await send('PUT', '/v1/served', { checkpoint: what });
    toast(s.checkpoint ? `Checkpoint ${s.checkpoint} is served.` : `Now served: ${s.text}.`);
  } catch (e) { toast(e.message, true); }
}

// The opened part of a row, {el, actions, unsaved()}. host: {changed(c), removed(c)}
function details(c, host) {
  const stored = (el, key, of) => saves(el, () => send('PATCH', `/v1/checkpoints/${c.id}`, { [key]: of() }), (now) => {
    Object.assign(c, now);
    toast(`Saved: ${key} of checkpoint ${c.id}.`);
    host.changed(c);
  });
  async function remove() {
    if (!confirm(`Delete checkpoint ${c.id} (step ${int(c.step)}, ${bytes(c.bytes)}) with its file?`)) return;
    try {
      await raw(`/v1/checkpoints/${c.id}`, { method: 'DELETE' });
      toast(`Checkpoint ${c.id} is deleted.`);
      host.removed(c);
    } catch (e) { toast(e.message, true); }
  }
  const name = h('input', { type: 'text', maxlength: '200', value: c.name ?? '' });
  const tags = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', value: (c.tags ?? []).join(' ') });
  const notes = h('textarea', { rows: '3', value: c.notes ?? '' });
  stored(name, 'name', () => name.value.trim());
  stored(tags, 'tags', () => tags.value.split(/[\s,]+/).filter(Boolean));
  stored(notes, 'notes', () => notes.value);
  const actions = h('div.run-actions', null, h('span.spacer'), h('button.danger', { type: 'button', 'aria-label': `Delete checkpoint ${c.id}`, onclick: remove }, 'Delete'));
  return { actions, unsaved: () => [name, tags, notes].some(unsaved), el: h('div.detail', null, h('div.detail-split', null,
    h('div.detail-edit', null, field('Name', name), field('Tags', tags, 'Words of a-z 0-9 . _ - with spaces between. A tag stands for the newest checkpoint that has it, as in checkpoint=best.')),
    h('div.detail-edit', null, field('Notes', notes))), actions) };
}

export function mount(root, params) {
  let job = params.get('job') ?? '', list = [], cursor = '', turn = 0, closed = false, stale = false;
  const open = new Set(), rows = new Map(); // by id: {els, unsaved(), kept}
  const pick = h('select', { onchange: () => { job = pick.value; list = []; older.hidden = true; keepInAddress('checkpoints', query({ job })); load(); } });
  const box = h('div.card.scroll', { tabindex: '0', role: 'region', 'aria-label': 'Checkpoints' });
  const older = h('button', { type: 'button', hidden: true, onclick: () => load(cursor) }, 'Older ones');
  fill(root, head('Checkpoints', 'Weights of every run at some of its steps. The served one answers requests that name none.', field('Run', pick)), box, older);

  function row(c) {
    const generator = (c.net ?? 'generator') === 'generator';
    const acts = [c.state === 'ok' && !c.active && generator ? h('button.quiet', { type: 'button', 'aria-label': `Serve checkpoint ${c.id}`, onclick: () => serve(c.id).then(() => load()) }, 'Serve') : null,
      c.active ? h('button.quiet', { type: 'button', 'aria-label': `Serve checkpoint ${c.id} no longer`, onclick: () => serve('auto').then(() => load()) }, 'Stop serving') : null,
      c.state === 'ok' && generator ? h('a.button.quiet', { href: `#/play?checkpoint=${c.id}`, 'aria-label': `Try checkpoint ${c.id}` }, 'Try') : null,
      fileLink('a.button.quiet', `/v1/checkpoints/${c.id}/file`, `driftd-${c.id}-step-${c.step}.safetensors`, { 'aria-label': `Download checkpoint ${c.id}` }, 'Download')].filter(Boolean);
    const what = h('td'), more = h('tr.more', { id: `checkpoint-${c.id}`, hidden: true });
    const paint = () => fill(what, c.job ? h('a', { href: `#/curves?runs=${c.job}`, title: jobs.get(c.job)?.name }, `${c.job} ${jobs.get(c.job)?.name ?? ''}`) : c.name || 'imported',
      c.job && c.name ? h('small', null, c.name) : null, c.tags?.length ? h('span.tags', null, c.tags.map((t) => h('code', null, t))) : null);
    const opener = h('button.quiet.opener', { type: 'button', 'aria-expanded': 'false', 'aria-controls': more.id, 'aria-label': `Details of checkpoint ${c.id}`, onclick: () => { if (more.hidden) open.add(c.id); else open.delete(c.id); show(); } }, h('span', { 'aria-hidden': 'true' }, '▾'));
    const cell = h('td.row-actions', null, acts, opener);
    let detail = null;
    function show() {
      const shown = open.has(c.id);
      more.hidden = !shown;
      opener.setAttribute('aria-expanded', String(shown));
      if (shown && !detail) more.append(h('td', { colspan: '8' }, (detail = details(c, { changed: () => { paint(); if (self.kept) { stale = true; late(); } }, removed: () => { open.delete(c.id); load(); } })).el));
      if (shown) (narrow.matches ? detail.actions : cell).prepend(...acts); // a phone's row has no room for them
    }
    paint();
    show();
    const self = { kept: false, unsaved: () => !!detail?.unsaved(), els: [h('tr', { data: { checkpoint: c.id } }, h('th', { scope: 'row' }, c.id), what, h('td', null, c.net ?? '–'), h('td', null, int(c.step)), h('td', null, bytes(c.bytes)), h('td', null, when(c.created)),
      h('td', null, c.active ? h('span.badge', { data: { state: 'completed' } }, 'served') : c.state === 'ok' ? (c.best ? 'best' : '') : c.state),
      cell), more] };
    return self;
  }
  // One with what could not be saved yet stays as it is.
  function rowOf(c) {
    const had = rows.get(c.id);
    if (had?.unsaved()) had.kept = true;
    else rows.set(c.id, row(c));
    return rows.get(c.id).els;
  }
  const writing = () => box.contains(document.activeElement) && document.activeElement.matches('input, textarea');
  // What is shown beyond a fresh first page stays.
  function take(page) {
    const end = list.findIndex((c) => c.id === page.checkpoints.at(-1)?.id), rest = page.next_cursor && end >= 0 ? list.slice(end + 1) : [];
    list = [...page.checkpoints, ...rest];
    if (!rest.length) cursor = page.next_cursor ?? '';
  }
  async function load(from = '') {
    const mine = ++turn;
    stale = false;
    try {
      if (!jobs.size) await loadJobs();
      const page = await get(`/v1/checkpoints?${query({ limit: from ? PAGE : clamp(list.length, PAGE, MOST), job, cursor: from })}`);
      if (closed || mine !== turn) return;
      if (writing()) { stale = true; return; }
      if (from) {
        list.push(...page.checkpoints);
        cursor = page.next_cursor ?? '';
      } else take(page);
    } catch (e) { toast(e.message, true); return; }
    older.hidden = !cursor;
    runs();
    if (!list.length) { fill(box, empty('No checkpoints yet', 'A run writes its first after a minute or 500 steps.')); return; }
    const titles = ['id', 'run', 'network', 'step', 'size', 'written', 'state'], focused = document.activeElement?.getAttribute('aria-label');
    fill(box, h('table.checkpoints', null, h('thead', null, h('tr', null, titles.map((c) => h('th', { scope: 'col' }, c)), h('th', { scope: 'col' }, h('span.sr', null, 'actions')))), h('tbody', null, list.map(rowOf))));
    if (focused && document.activeElement === document.body) box.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
  }
  function runs() {
    fill(pick, h('option', { value: '', selected: !job }, 'every run'), jobList().filter((j) => j.kind !== 'eval' && j.kind !== 'import').map((j) => h('option', { value: j.id, selected: j.id === job }, `${j.id} ${j.name || j.recipe}`)));
  }
  // A field that is being filled in stays: what came meanwhile is shown once it is left.
  const news = () => { if (writing()) stale = true; else load(); };
  const late = () => setTimeout(() => { if (stale && !writing() && !closed) load(); }, 300);
  box.addEventListener('focusout', late);
  settle(root, load());
  const off = [on('checkpoint', news), on('refetch', news), on('served', news)];
  return () => { closed = true; off.forEach((f) => f()); };
}
