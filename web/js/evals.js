// The page Evaluations: evaluations at work, plots, the table of all runs, and chosen runs side by side.
// Rows come from /v1/evals and follow the event stream; the address holds the view.
import { at, get, post, query, raw } from './api.js';
import { active, jobs, on, loadJobs, remember } from './state.js';
import { h, fill, text, num, int, duration, badge, toast, empty, head, field, debounce, download, keepInAddress } from './ui.js';
import { curves, describe, differs, done, groups, runName } from './evalrow.js';
import { chart, colours, scatterPlot } from './evalplots.js';
import { table } from './evaltable.js';
import { sideBySide } from './evalview.js';
import { openEvalForm } from './evalform.js';

const MOST = 4; // runs side by side
const MOST_ROWS = 5000;

async function allRows(filter) {
  const rows = [];
  let cursor = '', d;
  do {
    d = await get(`/v1/evals?${query({ ...filter, limit: 500, cursor })}`);
    rows.push(...d.evals);
    cursor = d.next_cursor ?? '';
  } while (cursor && rows.length < MOST_ROWS);
  return { rows, metrics: d.metrics ?? [] };
}

async function saved(path, name) {
  try { download(await (await raw(path)).blob(), name); } catch (e) { toast(e.message, true); }
}

// What may still be done about an eval job: it runs, waits, or was stopped before its end.
function open(j, rows) {
  return j.kind === 'eval' && (active(j) || (j.state !== 'completed' && rows.some((r) => r.eval_job === j.id && !done(r))));
}

export function mount(root, params) {
  const view = { metric: params.get('metric') ?? '', group: params.get('group') ?? '', job: params.get('job') ?? '', others: params.get('others') !== '0',
    log: params.get('log') === '1', over: params.get('over') === '1', runs: (params.get('runs') ?? '').split(',').filter(Boolean) };
  let rows = [], all = [], chosen = view.runs, picked = chosen.length > 0, canStart = true, closed = false;
  const defs = new Map();

  // ---- what is looked at ----

  const letterOf = (key) => all.find((g) => g.key === key)?.letter ?? '–';
  const reference = () => all.find((g) => g.key === view.group) ?? all.find((g) => g.rows.some(done)) ?? all[0];
  const inRun = () => rows.filter((r) => !view.job || r.job === view.job || r.eval_job === view.job);
  const visible = () => inRun().filter((r) => view.others || !r.comparable || r.comparable === reference()?.key);
  const filters = () => ({ job: view.job, comparable: view.others ? '' : reference()?.key });
  const keep = debounce(() => {
    if (!closed) keepInAddress('evals', query({ metric: view.metric, group: view.group, job: view.job, others: view.others ? '' : 0, log: view.log ? 1 : '', over: view.over ? 1 : '', runs: picked ? chosen.join(',') : '' }));
  }, 200);

  // ---- controls ----

  const changed = () => { draw(); keep(); };
  const metric = h('select', { onchange: () => { view.metric = metric.value; changed(); } });
  const group = h('select', { onchange: () => { view.group = group.value; changed(); } });
  const run = h('select', { onchange: () => { view.job = run.value; changed(); } });
  const check = (key, label) => h('label.check', null, h('input', { type: 'checkbox', checked: view[key], onchange: (e) => { view[key] = e.target.checked; changed(); } }), label);
  const others = check('others', 'show the others'), control = (label, el) => h('label.control', null, h('span', null, label), el);
  const bar = h('div.toolbar.eval-bar', { hidden: true }, control('Metric', metric), check('log', 'log values'), check('over', 'over the floor'), control('Run', run), control('Group', group), others);
  const groupNote = h('p.sub', { hidden: true });
  const link = (label, path, name) => h('a.button', { href: at(path()), onclick: (e) => { e.preventDefault(); saved(path(), name); } }, label);
  const csv = link('CSV', () => `/v1/evals.csv?${query(filters())}`, 'driftd-evals.csv');
  const json = h('a.button', { href: at('/v1/evals'), onclick: async (e) => {
    e.preventDefault();
    try { download(new Blob([JSON.stringify((await allRows(filters())).rows, null, 1)], { type: 'application/json' }), 'driftd-evals.json'); } catch (err) { toast(err.message, true); }
  } }, 'JSON');
  const create = h('button.primary', { type: 'button', onclick: () => openEvalForm() }, 'New evaluation');
  csv.hidden = json.hidden = true;

  // ---- parts ----

  const curve = (x) => `/v1/evals/curve.png?${query({ ...filters(), metric: shownMetric(), x: x === 'alpha' ? 'alpha' : '' })}`;
  const plots = [['step', 'Against the step'], ['alpha', 'Against the guidance scale']].map(([x, name]) => chart(x, name, () => at(curve(x)), () => saved(curve(x), `driftd-${shownMetric()}-${x}.png`)));
  plots.push(scatterPlot());
  const panels = h('div.panels.eval-plots', { hidden: true }, plots.map((p) => p.el)), work = h('div.runs', { hidden: true, role: 'group', 'aria-label': 'Evaluations at work' });
  const box = h('div.card.scroll.eval-table', { tabindex: '0', role: 'region', 'aria-label': 'Evaluations' }), side = h('section.side-by-side', { 'aria-label': 'Side by side', hidden: true });
  const summary = h('p.sr', { 'aria-live': 'polite' });
  const host = { defs, letter: letterOf, get selected() { return chosen; }, toggle, remove,
    stateOf: (r) => { const j = jobs.get(r.eval_job); return r.state === 'queued' && j && !active(j) ? j.state === 'completed' ? 'queued' : j.state : r.state; } };
  const rowsTable = table(box, host), show = sideBySide(side, { defs, letter: letterOf, toggle });
  fill(root, head('Evaluations', 'How good checkpoints are, against real images and by which judge.', csv, json, create), work, bar, groupNote, panels, box, side, summary);

  function toggle(id) {
    picked = true;
    chosen = chosen.includes(id) ? chosen.filter((x) => x !== id) : [...chosen, id].slice(-MOST);
    drawTable();
    drawSide();
    keep();
  }
  async function remove(r) {
    if (!confirm(`Delete evaluation ${r.id} (${runName(r)}, step ${r.step}) with its files?`)) return;
    try { await raw(`/v1/evals/${encodeURIComponent(r.id)}`, { method: 'DELETE' }); await load(); } catch (e) { toast(e.message, true); }
  }

  // ---- evaluations at work ----

  async function act(j, action) {
    try { remember(await post(`/v1/jobs/${j.id}/${action}`)); } catch (e) { toast(e.message, true); }
  }
  const cards = new Map();
  function workCard(id) {
    const name = h('strong'), sub = h('p.sub'), state = badge(''), bar2 = h('progress', { max: '1', value: '0', 'aria-label': `Progress of evaluation job ${id}` }), error = h('p.error', { hidden: true });
    const stop = h('button.quiet', { type: 'button', 'aria-label': `Stop evaluation job ${id}`, onclick: () => act(jobs.get(id), 'stop') }, 'Stop');
    const resume = h('button.quiet', { type: 'button', 'aria-label': `Resume evaluation job ${id}`, onclick: () => act(jobs.get(id), 'resume') }, 'Resume');
    const el = h('article.run.eval-work', { data: { job: id } }, h('div.run-top', null, h('div', null, name, sub), h('div.line', null, state, stop, resume)), bar2, error);
    return { el, update() {
      const j = jobs.get(id), mine = rows.filter((r) => r.eval_job === id), ended = mine.filter((r) => r.state === 'done' || r.state === 'failed').length;
      const now = mine.find((r) => r.state === 'running'), share = mine.length ? mine.reduce((a, r) => a + (r.state === 'failed' || done(r) ? 1 : r.progress ?? 0), 0) / mine.length : j.progress ?? 0;
      el.dataset.state = j.state;
      text(name, j.name || `evaluation job ${id}`);
      text(state, j.waits_for ? `waits for run ${j.waits_for.id}` : j.state);
      state.dataset.state = j.state;
      text(sub, [mine.length ? `${int(ended)} of ${int(mine.length)} evaluation${mine.length === 1 ? '' : 's'} done` : 'about to begin', now ? `at ${runName(now)}, step ${int(now.step)}, α ${num(now.settings?.alpha)}` : '',
        j.waits_for ? `waits for ${j.waits_for.name} (${j.waits_for.state})` : '', j.state === 'running' && j.eta_seconds ? `${duration(j.eta_seconds)} left` : ''].filter(Boolean).join(' · '));
      bar2.value = share;
      error.hidden = !j.error;
      text(error, j.error ?? '');
      stop.hidden = !['running', 'queued', 'paused'].includes(j.state);
      resume.hidden = !['stopped', 'paused', 'interrupted', 'failed'].includes(j.state);
    } };
  }
  function drawWork() {
    const list = [...jobs.values()].filter((j) => open(j, rows)).sort((a, b) => b.id - a.id), had = [...cards.keys()].join();
    for (const id of cards.keys()) if (!list.some((j) => j.id === id)) cards.delete(id);
    for (const j of list) if (!cards.has(j.id)) cards.set(j.id, workCard(j.id));
    if (had !== list.map((j) => j.id).join()) fill(work, list.map((j) => cards.get(j.id).el));
    for (const c of cards.values()) c.update();
    work.hidden = !list.length;
  }

  // ---- drawing ----

  const shownMetric = () => {
    const names = [...defs.keys()].filter((m) => rows.some((r) => typeof r.results?.[m] === 'number'));
    return names.includes(view.metric) ? view.metric : names.includes('fid') ? 'fid' : names[0] ?? '';
  };
  function drawControls() {
    const ref = reference(), name = shownMetric();
    fill(metric, [...defs.keys()].filter((m) => rows.some((r) => typeof r.results?.[m] === 'number')).map((m) => h('option', { value: m, selected: m === name, title: defs.get(m).help ?? null }, m.replaceAll('_', ' '))));
    const names = new Map(rows.filter((r) => r.job).map((r) => [r.job, runName(r)]));
    fill(run, h('option', { value: '' }, 'all'), [...names].map(([id, n]) => h('option', { value: id, selected: id === view.job }, `${id} ${n}`)));
    fill(group, all.map((g) => h('option', { value: g.key, selected: g === ref }, `${g.letter} – ${describe(g.of)} (${int(g.rows.length)})`)));
    const far = all.filter((g) => g !== ref);
    groupNote.hidden = !far.length;
    text(groupNote, far.length ? `Group ${ref.letter} is looked at. Runs of another group were measured differently, and are grey: ${far.slice(0, 3).map((g) => `${g.letter} (${differs(g.of, ref.of)})`).join(', ')}${far.length > 3 ? ' …' : ''}.` : '');
    others.hidden = group.parentElement.hidden = all.length < 2;
    run.parentElement.hidden = names.size < 2;
    csv.href = at(`/v1/evals.csv?${query(filters())}`);
  }
  function drawPlots() {
    const list = visible().filter(done), ref = reference(), name = shownMetric(), maps = {};
    bar.hidden = !rows.some((r) => done(r) && r.comparable); // of all, as it is the way back from a run without any
    panels.hidden = !list.some((r) => r.comparable);
    if (panels.hidden) return;
    for (const x of ['step', 'alpha']) maps[x] = colours(curves(list, [], x), ref.key);
    const state = { rows: list, metric: name, how: defs.get(name)?.better ?? 'lower', log: view.log, over: view.over, group: ref.key, letter: letterOf, colour: (c, x) => maps[x].get(c.key) };
    for (const p of plots) p.draw(state);
  }
  function drawTable() {
    const list = visible();
    box.hidden = !list.length && rows.length > 0;
    if (rows.length) { rowsTable.draw(list, reference()); return; }
    fill(box, canStart ? empty('No evaluations yet', 'An evaluation draws samples from a checkpoint and compares them with real images: quality, coverage, classes and memorisation, each beside what real images themselves get.',
      h('button.primary', { type: 'button', onclick: () => openEvalForm() }, 'Evaluate a checkpoint'), h('p', null, 'or ', h('code', null, 'driftctl eval --checkpoint ID'), ', or set ', h('code', null, 'eval.every'), ' in the configuration of a run.'))
      : empty('Nothing to evaluate yet', 'Once a run has written its first checkpoint, its samples can be compared with real images here.', h('a.button.primary', { href: '#/runs?new=1' }, 'Start a run'),
        h('p', null, 'Afterwards: ', h('code', null, 'driftctl eval --checkpoint ID'))));
  }
  function drawSide(again) {
    const have = new Map(rows.filter(done).map((r) => [r.id, r]));
    chosen = chosen.filter((id) => have.has(id));
    if (!picked) { // the newest, until a run is chosen
      const newest = [...have.values()].sort((a, b) => b.id - a.id)[0];
      if (newest) chosen = [newest.id];
    }
    show(chosen.map((id) => have.get(id)), again);
  }
  function draw() {
    if (view.job && !inRun().length) { // deleted
      view.job = '';
      keep();
    }
    csv.hidden = json.hidden = !rows.length;
    create.hidden = !rows.length && !canStart;
    drawControls();
    drawPlots();
    drawSide();
    drawTable();
    drawWork();
    const n = rows.filter(done).length;
    text(summary, rows.length ? `${int(n)} evaluation${n === 1 ? '' : 's'} done, ${int(rows.length - n)} not` : '');
  }

  // ---- life ----

  let turn = 0;
  async function load() {
    const mine = ++turn;
    try {
      if (!jobs.size) await loadJobs();
      const d = await allRows({});
      if (!d.rows.length) canStart = (await get('/v1/checkpoints?limit=500')).checkpoints.some((c) => c.state === 'ok' && (c.net ?? 'generator') === 'generator');
      if (closed || mine !== turn) return;
      ({ rows } = d);
      all = groups(rows);
      defs.clear();
      for (const m of d.metrics) defs.set(m.name, m);
      for (const r of rows) for (const m of Object.keys(r.results ?? {})) if (!defs.has(m)) defs.set(m, { name: m, better: 'lower' });
      draw();
    } catch (e) { toast(e.message, true); }
  }
  const soon = debounce(load, 250);
  function event(d) {
    const r = rows.find((x) => x.id === String(d.id));
    if (!r || r.state !== d.state || d.state !== 'running') { soon(); return; }
    if (typeof d.progress === 'number') r.progress = d.progress;
    rowsTable.progress(r);
    drawWork();
  }
  load();
  if (params.get('new')) openEvalForm(params.get('checkpoint') ?? '');
  const off = [on('eval', event), on('refetch', soon), on('checkpoint', () => { if (!rows.length) soon(); }), on('jobs', () => { if (jobs.size) drawWork(); }),
    on('state', (d) => { if (jobs.get(String(d.job))?.kind === 'eval' || !jobs.has(String(d.job))) soon(); }), on('theme', () => { if (rows.length) { drawPlots(); drawSide(true); } })];
  return () => {
    closed = true;
    soon.cancel();
    keep.cancel();
    for (const p of plots) p.destroy();
    for (const f of off) f();
  };
}
