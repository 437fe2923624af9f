// The runs page: every job in one table that sorts and filters, each with a row that opens; what the
// chosen ones have in common is compared. The address holds the view.
import { blobOf, post, raw, query } from './api.js';
import { jobs, on, jobList, loadJobs, remember, active, fewRuns, sayProgress, trains } from './state.js';
import { h, fill, text, toast, empty, head, perFrame, debounce, download, keepInAddress } from './ui.js';
import { openForm } from './form.js';
import { runRow, paths } from './runrow.js';
import { settings } from './diff.js';

const can = {
  pause: (s) => s === 'running' || s === 'queued',
  resume: (s) => s === 'paused' || s === 'stopped' || s === 'interrupted' || s === 'failed',
  stop: (s) => s === 'running' || s === 'queued' || s === 'paused',
  remove: (s) => s === 'completed' || s === 'failed' || s === 'stopped' || s === 'interrupted',
};
const order = ['running', 'stopping', 'queued', 'paused', 'interrupted', 'failed', 'stopped', 'completed'];
const seconds = (j) => j.seconds ?? 0;
const columns = [
  ['id', 'Run', (j) => +j.id], ['state', 'State', (j) => order.indexOf(j.state)], ['changed', 'Changed from the recipe', (j) => paths(j).join()],
  ['drift', 'Drift norm', (j) => j.newest?.drift_norm ?? null], ['step', 'Steps', (j) => j.step ?? 0], ['time', 'Time', seconds],
];
const falling = ['id', 'step', 'time']; // the first click shows the greatest first

async function act(job, action) {
  try {
    if (action === 'remove') {
      if (!confirm(`Delete run ${job.id} (${job.name || job.recipe}) with its metrics, samples and checkpoints?`)) return;
      await raw(`/v1/jobs/${job.id}`, { method: 'DELETE' });
      toast(`Run ${job.id} is deleted.`);
      await loadJobs();
    } else {
      remember(await post(`/v1/jobs/${job.id}/${action}`));
    }
  } catch (e) { toast(e.message, true); }
}

const LISTED = 500; // runs in one request for the table: the server takes 1000, and a line of some 30 kB

// The metrics of runs as one table; ids null: of all that the server has.
async function csvOf(ids) {
  const table = async (q) => blobOf(await raw(`/v1/metrics.csv?${query(q)}`));
  if (!ids) return table({});
  const parts = [];
  for (let i = 0; i < ids.length; i += LISTED) parts.push(ids.slice(i, i + LISTED).join(','));
  if (parts.length === 1) return table({ jobs: parts[0] });
  const names = new Set(); // of all parts, so that each has the same columns: those of a part without its rows
  for (const jobs of parts) for (const n of (await (await table({ jobs, from: Number.MAX_SAFE_INTEGER })).text()).trim().split(',').slice(4)) names.add(n);
  const joined = [];
  for (const jobs of parts) {
    const one = await table({ jobs, names: [...names].join(',') }), head = (await one.slice(0, 65536).text()).indexOf('\n') + 1;
    joined.push(joined.length ? one.slice(head) : one);
  }
  return new Blob(joined, { type: 'text/csv' });
}

// All words of a run that the filter looks at.
const words = (j) => [j.id, j.name, j.recipe, j.kind, j.state, j.data, j.notes, ...paths(j)].join(' ').toLowerCase();

export function mount(root, params) {
  const view = { q: params.get('q') ?? '', state: params.get('state') ?? '', sort: params.get('sort') ?? '-id', diff: fewRuns((params.get('diff') ?? '').split(',').filter(Boolean), 'Settings') };
  const rows = new Map(), picked = new Set(view.diff), off = [];
  let shown = [], loaded = jobs.size > 0, closed = false;

  const search = h('input', { type: 'search', value: view.q, placeholder: 'Name, recipe, setting or note', 'aria-label': 'Filter runs',
    oninput: debounce(() => { view.q = search.value; layout(); }, 120) });
  const state = h('select', { 'aria-label': 'State', onchange: () => { view.state = state.value; layout(); } },
    [['', 'every state'], ['active', 'active'], ['ended', 'ended'], ...order.map((s) => [s, s])].map(([v, t]) => h('option', { value: v, selected: v === view.state }, t)));
  const count = h('output');
  const chosen = () => jobList().filter((j) => picked.has(j.id)).map((j) => j.id).reverse();
  const charted = () => chosen().filter((id) => trains(jobs.get(id)));
  const curves = h('button', { type: 'button', onclick: () => { location.hash = `#/curves?runs=${fewRuns(charted(), 'Curves').join(',')}`; } }, 'Curves');
  const differ = h('button', { type: 'button', onclick: () => { view.diff = fewRuns(chosen(), 'Settings'); compare(true); save(); } }, 'Settings');
  const csv = h('button', { type: 'button', onclick: () => table() }, 'CSV');
  const bar = h('div.toolbar.runs-bar', null, search, state, count, h('div.control.end', { role: 'group', 'aria-label': 'Chosen runs' }, curves, differ, csv));

  async function table() {
    const ids = picked.size ? chosen() : shown.length < jobs.size ? shown.map((j) => j.id).sort((a, b) => a - b) : null;
    try {
      download(await csvOf(ids), `driftd-runs-${ids ? ids.slice(0, 8).join('-') : 'all'}.csv`);
    } catch (e) { toast(e.message, true); }
  }

  // ---- settings side by side ----

  const beside = h('div.beside');
  let comparing = '';
  async function compare(focus) {
    const key = view.diff.join();
    if (key === comparing && !focus) return;
    comparing = key;
    try {
      const el = view.diff.length ? await settings(view.diff, () => { view.diff = []; compare(); save(); differ.focus(); }) : null;
      if (comparing !== key) return;
      fill(beside, el);
      if (focus) beside.querySelector('h2')?.focus();
    } catch (e) { toast(e.message, true); }
  }

  // ---- the table ----

  const all = h('input', { type: 'checkbox', 'aria-label': 'Choose all runs shown', onchange: () => {
    for (const j of shown) { if (all.checked) picked.add(j.id); else picked.delete(j.id); }
    marks();
  } });
  const heads = columns.map(([key, title]) => h(`th.c-${key}`, { scope: 'col' }, h('button.sort', { type: 'button', onclick: () => {
    const now = view.sort.replace('-', '') === key;
    view.sort = now ? (view.sort[0] === '-' ? key : `-${key}`) : falling.includes(key) ? `-${key}` : key;
    layout();
  } }, title)));
  const body = h('table.runs', null, h('thead', null, h('tr', null, h('td.c-pick', null, all), h('td.c-thumb'), heads, h('td.c-act'))));
  const box = h('div.card.scroll.runs-box', { tabindex: '0', role: 'region', 'aria-label': 'Runs' }, body);
  const list = h('div.runs-list');
  const create = h('button.primary', { type: 'button', onclick: () => openForm() }, 'New run');
  fill(root, head('Runs', 'A job is a recipe plus your overrides.', h('a.button', { href: '#/sweeps' }, 'Sweeps'), create), bar, beside, list);

  const near = new IntersectionObserver((seen) => { for (const e of seen) if (e.isIntersecting) rows.get(e.target.dataset.run)?.look(); }, { rootMargin: '200px' });
  const host = {
    can, act,
    duplicate: (j) => openForm({ from: j }),
    compare: (j) => { view.diff = [j.id]; compare(true); save(); },
    picked: (id) => picked.has(id),
    pick(id, yes) { if (yes) picked.add(id); else picked.delete(id); marks(); },
  };
  function marks() {
    for (const r of rows.values()) r.mark();
    for (const id of picked) if (!jobs.has(id)) picked.delete(id);
    all.checked = shown.length > 0 && shown.every((j) => picked.has(j.id));
    differ.disabled = !picked.size;
    curves.disabled = !charted().length;
    text(csv, picked.size ? 'CSV' : 'CSV of all');
    csv.disabled = !shown.length;
  }
  function save() {
    keepInAddress('runs', query({ q: view.q, state: view.state, sort: view.sort === '-id' ? null : view.sort, diff: view.diff.join(',') }));
  }

  // only: the one job that has changed, if it is no more.
  function layout(only) {
    const everything = jobList();
    bar.hidden = !everything.length;
    if (!everything.length) {
      if (!loaded) return;
      rows.clear();
      fill(list, empty('No runs yet', 'A run is started from a recipe, with any of its settings changed.',
        h('button.primary', { type: 'button', onclick: () => openForm() }, 'Start the first run')));
      return;
    }
    if (list.firstChild !== box) fill(list, box);
    for (const id of rows.keys()) if (!jobs.has(id)) { near.unobserve(rows.get(id).el); rows.get(id).close(); rows.delete(id); }
    const q = view.q.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (j) => (!view.state || j.state === view.state || (view.state === 'active' && active(j)) || (view.state === 'ended' && !active(j))) && q.every((w) => words(j).includes(w));
    const down = view.sort[0] === '-', by = columns.find(([key]) => key === view.sort.replace('-', '')) ?? columns[0];
    const rank = (a, b) => {
      const x = by[2](a), y = by[2](b);
      if (x === null || y === null) return (x === null) - (y === null); // last, whatever the direction
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
    };
    shown = everything.filter(fits).sort((a, b) => rank(a, b) || b.id - a.id);
    heads.forEach((th, i) => {
      if (columns[i] === by) th.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      else th.removeAttribute('aria-sort');
    });
    for (const j of shown) if (!rows.has(j.id)) { rows.set(j.id, runRow(j.id, host)); near.observe(rows.get(j.id).el); }
    const want = shown.map((j) => rows.get(j.id).el), have = [...body.tBodies];
    if (have.length !== want.length || have.some((el, i) => el !== want[i])) {
      const focused = document.activeElement;
      for (const el of have) el.remove();
      body.append(...want);
      if (focused?.isConnected && focused !== document.activeElement && body.contains(focused)) focused.focus();
    }
    if (byNorm()) fillIn();
    text(count, `${shown.length === everything.length ? '' : `${shown.length} of `}${everything.length} run${everything.length === 1 ? '' : 's'}${filling ? ', drift norms are fetched' : ''}`);
    for (const r of only === undefined ? rows.values() : [rows.get(only)]) r?.update();
    marks();
    save();
  }

  // The rows out of sight have no drift norm yet: it is fetched before it can sort them.
  const byNorm = () => view.sort.replace('-', '') === 'drift';
  const tried = new Set();
  let filling = false;
  async function fillIn() {
    const missing = shown.filter((j) => j.step && trains(j) && j.kind !== 'encoder' && !j.newest && !tried.has(j.id));
    if (filling || !missing.length) return;
    filling = true;
    await Promise.all(Array.from({ length: 4 }, async () => {
      while (missing.length && byNorm() && !closed) {
        const { id } = missing.shift();
        tried.add(id);
        await rows.get(id)?.values();
      }
    }));
    filling = false;
    if (!closed) layout();
  }

  const changed = new Set();
  const paint = perFrame(() => { for (const id of changed) rows.get(id)?.update(); changed.clear(); });
  off.push(on('jobs', (id) => { loaded = true; layout(id); }));
  off.push(on('metrics', (d) => { changed.add(d.job); paint(); sayProgress(d.job); }));
  off.push(on('sample', (d) => rows.get(String(d.job))?.sample(d)));
  off.push(on('refetch', () => { // only what is in sight is fetched again: the observer reports it anew
    tried.clear();
    for (const r of rows.values()) { r.again(); near.unobserve(r.el); near.observe(r.el); }
  }));
  const tick = setInterval(() => { for (const r of rows.values()) r.update(); }, 5000);
  if (loaded) layout();
  loadJobs().then(() => { loaded = true; layout(); compare(); }, (e) => { layout(); if (jobs.size) toast(e.message, true); else fill(list, h('p.error', null, e.message)); });
  if (params.get('new')) openForm();
  return () => { closed = true; clearInterval(tick); paint.cancel(); near.disconnect(); for (const f of off) f(); for (const r of rows.values()) r.close(); };
}
