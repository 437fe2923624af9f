// The evaluations page: a sortable table of /v1/evals and one metric against the step, with one line
// per run, guidance scale and sample count. Results under other conditions than the newest (another
// judge, reference or kind) are flagged and drawn apart.
import { at, get } from './api.js';
import { jobs, on, loadJobs } from './state.js';
import { h, fill, num, int, toast, empty, head, ago, field } from './ui.js';
import { runColor, formatX, tick } from './panel.js';

const hidden = new Set(['settings', 'results', 'metrics', 'created']);
// Settings that define a line of the plot, or that do not change the meaning of a result.
const free = new Set(['cfg', 'alpha', 'n', 'samples', 'seed', 'checkpoint', 'step']);
const smaller = /fid|distance|loss|error|kid/i;

const pick = (o, ...names) => names.map((n) => o?.[n]).find((v) => v !== undefined && v !== null);

// One record: its scalars, its line in the plot and its conditions.
export function flatten(e) {
  const settings = e.settings ?? {}, results = e.results ?? e.metrics ?? {};
  const cells = {};
  for (const [k, v] of Object.entries(e)) if (!hidden.has(k) && (typeof v !== 'object' || v === null)) cells[k] = v;
  for (const [k, v] of [...Object.entries(settings), ...Object.entries(results)]) if (typeof v !== 'object') cells[k] = v;
  if (e.created) cells.created = e.created;
  const alpha = pick(settings, 'cfg', 'alpha'), n = pick(settings, 'n', 'samples');
  const conditions = { kind: e.kind };
  for (const [k, v] of Object.entries(settings)) if (!free.has(k)) conditions[k] = v;
  return { id: e.id, cells, conditions, step: Number(e.step), created: e.created ?? '',
    results: Object.fromEntries(Object.entries(results).filter(([, v]) => typeof v === 'number')),
    line: [e.job ?? '', alpha ?? '', n ?? ''].join('|'), job: String(e.job ?? ''), alpha, n };
}

// Marks rows whose conditions differ from the newest row's, with a sentence that names what differs.
export function compare(rows) {
  const newest = rows.reduce((a, b) => (!a || b.created > a.created || (b.created === a.created && Number(b.id) > Number(a.id)) ? b : a), null);
  for (const r of rows) {
    const keys = new Set([...Object.keys(r.conditions), ...Object.keys(newest.conditions)]);
    const other = [...keys].filter((k) => JSON.stringify(r.conditions[k]) !== JSON.stringify(newest.conditions[k]));
    r.other = other.length ? `not comparable with the newest: other ${other.join(', ')}` : '';
  }
  return rows;
}

export function mount(root) {
  const box = h('div.card.scroll', { tabindex: '0', role: 'region', 'aria-label': 'Evaluations' });
  const metric = h('select', { 'aria-label': 'Metric', onchange: () => plot() });
  const canvas = h('div.plot'), legend = h('ul.legend'), summary = h('p.sr', { 'aria-live': 'polite' });
  const figure = h('section.panel.eval-plot', { hidden: true, 'aria-label': 'Metric against the step' },
    h('div.panel-head', null, h('h2', null, 'Against the step'), field('Metric', metric)), legend, canvas, summary);
  const csv = h('a.button', { href: at('/v1/evals.csv'), download: 'driftd-evals.csv', hidden: true }, 'CSV');
  fill(root, head('Evaluations', 'Results by checkpoint and guidance scale.', csv), figure, box);
  let rows = [], by = 'id', down = true, chart = null;

  function table() {
    csv.hidden = figure.hidden = !rows.length;
    if (!rows.length) {
      fill(box, empty('No evaluations yet', 'Results of evaluated checkpoints appear here: a sortable table, and every metric against the step.'));
      return;
    }
    const cols = [...new Set(rows.flatMap((r) => Object.keys(r.cells)))];
    const sorted = [...rows].sort((a, b) => {
      const x = a.cells[by], y = b.cells[by], nx = Number(x), ny = Number(y);
      const c = !Number.isNaN(nx) && !Number.isNaN(ny) ? nx - ny : String(x ?? '').localeCompare(String(y ?? ''));
      return down ? -c : c;
    });
    const sort = (c) => () => {
      down = c === by ? !down : true;
      by = c;
      table();
      box.querySelector(`[data-col="${CSS.escape(c)}"]`)?.focus();
    };
    fill(box, h('table', null,
      h('thead', null, h('tr', null, cols.map((c) => h('th', { scope: 'col', 'aria-sort': c === by ? (down ? 'descending' : 'ascending') : 'none' },
        h('button.sort', { type: 'button', data: { col: c }, onclick: sort(c) }, c.replaceAll('_', ' ')))), h('th', { scope: 'col' }, h('span.sr', null, 'remarks')))),
      h('tbody', null, sorted.map((r) => h('tr', null, cols.map((c) => h('td', null, cell(r, c))),
        h('td', null, r.other ? h('span.badge', { title: r.other, data: { state: 'interrupted' } }, 'not comparable', h('span.sr', null, `: ${r.other}`)) : null))))));
  }
  function cell(r, c) {
    const v = r.cells[c];
    if (c === 'created') return ago(v);
    if (c === 'job' && jobs.get(String(v))) return `${v} ${jobs.get(String(v)).name}`;
    return typeof v === 'number' ? num(v, 5) : String(v ?? '–');
  }

  function lines(name) {
    const found = new Map();
    for (const r of rows) {
      if (typeof r.results[name] !== 'number' || !Number.isFinite(r.step)) continue;
      const key = r.line + (r.other ? `|${JSON.stringify(r.conditions)}` : '');
      if (!found.has(key)) found.set(key, { of: r, points: new Map() });
      found.get(key).points.set(r.step, r.results[name]);
    }
    return [...found.values()];
  }
  function label(r) {
    const job = jobs.get(r.job);
    return [job?.name ?? (r.job ? `run ${r.job}` : 'imported'), r.alpha === undefined ? '' : `α ${r.alpha}`, r.n === undefined ? '' : `n ${int(r.n)}`, r.other ? '(not comparable)' : ''].filter(Boolean).join(' · ');
  }
  function plot() {
    chart?.destroy();
    chart = null;
    const names = [...new Set(rows.flatMap((r) => Object.keys(r.results)))], chosen = names.includes(metric.value) ? metric.value : names[0];
    if (!chosen) { figure.hidden = true; return; }
    fill(metric, names.map((n) => h('option', { value: n, selected: n === chosen }, n.replaceAll('_', ' '))));
    const css = (n) => getComputedStyle(document.documentElement).getPropertyValue(n).trim();
    const list = lines(chosen), xs = [...new Set(list.flatMap((l) => [...l.points.keys()]))].sort((a, b) => a - b);
    const grid = { stroke: css('--grid'), width: 1 }, stroke = css('--muted'), font = '11.5px system-ui, sans-serif';
    chart = new window.uPlot({
      width: Math.max(200, canvas.clientWidth), height: 280, legend: { show: false }, padding: [8, 10, 0, 0],
      cursor: { drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: false, range: (u, a, b) => (a === b ? [a - 1, b + 1] : [a - (b - a) * 0.03, b + (b - a) * 0.03]) } },
      axes: [{ stroke, font, grid, size: 30, space: 70, values: (u, vs) => vs.map((v) => formatX(v, 'step', true)) },
        { stroke, font, grid, size: 56, values: (u, vs) => tick(vs) }],
      series: [{}, ...list.map((l, k) => ({ stroke: l.of.other ? css('--muted') : runColor(k), width: 1.75, spanGaps: true, dash: l.of.other ? [4, 4] : undefined,
        points: { show: true, size: 6, fill: l.of.other ? css('--panel') : runColor(k) } }))],
    }, [xs, ...list.map((l) => xs.map((x) => l.points.get(x) ?? null))], fill(canvas));
    fill(legend, list.map((l, k) => {
      const swatch = h('i.swatch', { 'aria-hidden': 'true' }), best = [...l.points].reduce((a, b) => ((smaller.test(chosen) ? b[1] < a[1] : b[1] > a[1]) ? b : a));
      swatch.style.background = l.of.other ? css('--muted') : runColor(k);
      if (l.of.other) swatch.classList.add('dashed');
      return h('li', { title: l.of.other || null }, swatch, h('span', null, label(l.of)), h('b', null, `best ${num(best[1])} at ${int(best[0])}`));
    }));
    summary.textContent = `${chosen} of ${list.length} line${list.length === 1 ? '' : 's'} over ${xs.length} steps`;
    figure.dataset.lines = list.length;
  }
  const resize = new ResizeObserver(() => { if (chart && canvas.clientWidth) chart.setSize({ width: canvas.clientWidth, height: 280 }); });
  resize.observe(canvas);

  async function load() {
    try {
      rows = compare(((await get('/v1/evals?limit=500')).evals ?? []).map(flatten));
      if (rows.length && !jobs.size) await loadJobs();
    } catch (e) { toast(e.message, true); }
    table();
    if (rows.length) plot();
  }
  load();
  const off = [on('eval', load), on('refetch', load), on('theme', () => rows.length && plot())];
  return () => {
    resize.disconnect();
    chart?.destroy();
    off.forEach((f) => f());
  };
}
