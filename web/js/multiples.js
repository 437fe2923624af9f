// Small multiples of a sweep: a small plot per combination of its two keys with the most values, all on
// the same axes, so that one sees what each key does to a metric and how far the seeds spread.
import { h, svg, num, int, clamp } from './ui.js';
import { finite, estimate } from './evalrow.js';
import { formatX, tick } from './panel.js';

const WIDE = 8; // columns and lines beyond which a matrix is no longer read
const HEIGHT = 112, LEFT = 42, RIGHT = 8, TOP = 8, BOTTOM = 18;

// A value of a key as people write it.
export const show = (v) => (finite(v) ? tick([v])[0] : typeof v === 'string' ? v : v === undefined || v === null ? '–' : JSON.stringify(v));

// The different values of a key: numbers by their size, words in their order.
function valuesOf(rows, key) {
  const list = [...new Map(rows.map((r) => [show(r.params[key]), r.params[key]])).values()];
  if (list.every(finite)) list.sort((a, b) => a - b);
  return list.map(show);
}

// {down, across, bands: [{name, cells: [{name, rows}]}], keys}: a matrix of the two keys with the most
// values where its cells are filled, else one row with a cell per configuration (down and across null).
// keys: those that the lines within a cell differ in. null: the runs differ in nothing.
export function arrange(table) {
  const rows = table.rows, is = (r, k, v) => show(r.params[k.key]) === v;
  const keys = table.params.map((key) => ({ key, values: valuesOf(rows, key) })).filter((k) => k.values.length > 1).sort((a, b) => b.values.length - a.values.length);
  const [down, across, ...rest] = keys, lines = rest.reduce((n, k) => n * k.values.length, 1);
  if (!down) return null;
  if (across && across.values.length <= WIDE && lines <= WIDE) {
    const bands = down.values.map((v) => ({ name: v, cells: across.values.map((w) => ({ name: `${down.key} ${v}, ${across.key} ${w}`, rows: rows.filter((r) => is(r, down, v) && is(r, across, w)) })) }));
    const filled = bands.flatMap((b) => b.cells).filter((c) => c.rows.length).length;
    if (2 * filled >= down.values.length * across.values.length) return { down, across, bands, keys: rest };
  }
  const cells = new Map();
  for (const r of rows) {
    const name = keys.map((k) => `${k.key} ${show(r.params[k.key])}`).join(', ');
    cells.set(name, { name, rows: [...(cells.get(name)?.rows ?? []), r] });
  }
  return { down: null, across: null, bands: [{ name: '', cells: [...cells.values()] }], keys: [] };
}

// The lines of a cell: [{name, points}], one per series of the API's curve.
function linesOf(cell, plan, table, curve, rungs) {
  const evaluated = table.metrics.some((m) => m.name === curve.metric && m.eval);
  const several = evaluated && new Set(table.rows.map((r) => r.alpha).filter(finite)).size > 1;
  const out = new Map();
  for (const r of cell.rows) {
    const alpha = evaluated && finite(r.alpha) ? `, alpha ${+r.alpha.toPrecision(6)}` : '';
    const label = `${r.label}${rungs > 1 ? `, rung ${r.rung}` : ''}${alpha}`;
    const name = [...plan.keys.map((k) => `${k.key} ${show(r.params[k.key])}`), rungs > 1 ? `rung ${r.rung + 1}` : '', several && finite(r.alpha) ? `alpha ${show(r.alpha)}` : ''].filter(Boolean).join(', ');
    const points = curve.series.find((s) => s.label === label)?.points;
    if (points?.length) out.set(label, { name, points });
  }
  return [...out.values()];
}

const tenth = (v) => Math.round(v * 10) / 10; // of a pixel

// Round numbers in lo..hi, about three.
function ticks(lo, hi, log) {
  const list = [];
  if (log) {
    for (let e = Math.ceil(Math.log10(lo)); e <= Math.log10(hi); e++) list.push(10 ** e);
    return list.length > 1 ? list : [lo, hi];
  }
  const raw = (hi - lo) / 3 || 1, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.99);
  for (let k = Math.ceil(lo / step); k * step <= hi + 1e-9 * step; k++) list.push(+(k * step).toPrecision(12));
  return list;
}

// What all plots share. A metric that was measured once in each run has points beside each other, one
// per line; else lines over steps. A range of many powers is logarithmic.
function axesOf(all, names, width) {
  const points = all.flatMap((l) => l.points), once = all.every((l) => l.points.length === 1);
  const means = points.map((p) => p.value), spread = (p) => (finite(p.error) ? p.error : 0);
  const log = Math.min(...means) > 0 && Math.max(...means) >= 50 * Math.min(...means);
  let lo = Math.min(...points.map((p) => (log ? p.value : p.value - spread(p)))), hi = Math.max(...points.map((p) => p.value + spread(p)));
  if (!(hi > lo)) { lo -= Math.abs(lo) * 0.1 || 1; hi += Math.abs(hi) * 0.1 || 1; }
  else if (!log) { const more = (hi - lo) * 0.06; lo -= more; hi += more; }
  const f = log ? Math.log : (v) => v, right = width - RIGHT, bottom = HEIGHT - (once ? 8 : BOTTOM);
  const first = Math.min(...points.map((p) => p.step)), last = Math.max(...points.map((p) => p.step));
  return { once, log, lo, hi, first, last, width, bottom, right, ticks: ticks(lo, hi, log), names,
    X: (s) => tenth(LEFT + ((s - first) / (last - first || 1)) * (right - LEFT)), slot: (i) => tenth(LEFT + ((i + 0.5) / names.length) * (right - LEFT)),
    Y: (v) => tenth(bottom - ((f(Math.max(v, lo)) - f(lo)) / (f(hi) - f(lo))) * (bottom - TOP)) };
}

function line(l, a) {
  const at = (p, v) => `${a.X(p.step)} ${a.Y(v)}`, e = (p) => (finite(p.error) ? p.error : 0);
  const g = svg('g', { class: 'multi-line' });
  g.style.color = `var(--run-${a.names.indexOf(l.name) % 8})`;
  if (a.once) {
    const [p] = l.points, x = a.slot(a.names.indexOf(l.name));
    if (e(p) > 0) g.append(svg('path', { d: `M${x} ${a.Y(p.value - e(p))}V${a.Y(p.value + e(p))}M${x - 4} ${a.Y(p.value + e(p))}h8M${x - 4} ${a.Y(p.value - e(p))}h8`, class: 'bars' }));
    g.append(svg('circle', { cx: x, cy: a.Y(p.value), r: 3.5 }));
    return g;
  }
  if (l.points.some((p) => e(p) > 0))
    g.append(svg('path', { d: `M${l.points.map((p) => at(p, p.value + e(p))).join('L')}L${[...l.points].reverse().map((p) => at(p, p.value - e(p))).join('L')}Z`, class: 'band' }));
  g.append(svg('path', { d: `M${l.points.map((p) => at(p, p.value)).join('L')}`, class: 'mean' }));
  if (l.points.length <= 12) g.append(...l.points.map((p) => svg('circle', { cx: a.X(p.step), cy: a.Y(p.value), r: 2 })));
  return g;
}

function plot(lines, a) {
  const label = (x, y, t, anchor) => svg('text', { x, y, 'text-anchor': anchor }, t), words = tick(a.ticks);
  return svg('svg', { viewBox: `0 0 ${a.width} ${HEIGHT}`, width: a.width, height: HEIGHT, class: 'plane', 'aria-hidden': 'true' },
    a.ticks.map((t, i) => [svg('path', { d: `M${LEFT} ${a.Y(t)}H${a.right}`, class: 'grid' }), label(LEFT - 5, a.Y(t) + 4, words[i], 'end')]),
    a.once ? null : [label(LEFT, HEIGHT - 3, formatX(a.first, 'step', true), 'start'), label(a.right, HEIGHT - 3, formatX(a.last, 'step', true), 'end')],
    lines.map((l) => line(l, a)));
}

const final = (l) => l.points.at(-1);
const says = (l) => estimate(final(l).value, final(l).error);
// Of several lines the best is written out, where the metric says which that is.
function foremost(lines, better) {
  if (lines.length < 2 || !better) return lines.length === 1 ? lines[0] : null;
  const rank = (l) => (better === 'one' ? Math.abs(final(l).value - 1) : better === 'lower' ? final(l).value : -final(l).value);
  return [...lines].sort((x, y) => rank(x) - rank(y))[0];
}

// host: {width, rungs, choose(rows), chosen(rows)}; rows are places in table.rows. Returns {el, about,
// legend: [{name, colour}]}; null: there is nothing to compare.
export function multiples(table, curve, host) {
  const plan = arrange(table), title = curve.metric.replaceAll('_', ' ');
  if (!plan) return null;
  const cells = plan.bands.flatMap((b) => b.cells), lines = new Map(cells.map((c) => [c, linesOf(c, plan, table, curve, host.rungs)])), all = [...lines.values()].flat();
  if (!all.length) return { el: h('p.sub', null, `No run has ${title} yet.`), about: '', legend: [] };
  const names = [...new Set(all.map((l) => l.name))], head = plan.down ? clamp(host.width * 0.14, 76, 150) : 0, columns = plan.across?.values.length ?? Math.max(1, Math.floor(host.width / 155));
  const a = axesOf(all, names, Math.round(clamp((host.width - head) / columns - 26, 124, 280))), better = table.metrics.find((m) => m.name === curve.metric)?.better;
  const cell = (c) => {
    const mine = lines.get(c), best = foremost(mine, better), places = c.rows.map((r) => table.rows.indexOf(r));
    if (!c.rows.length) return h('span.multi-none', null, 'not run');
    return h('button.multi-cell', { type: 'button', data: { rows: places.join() }, 'aria-pressed': String(host.chosen(places)), onclick: () => host.choose(places),
      'aria-label': `${c.name}: ${mine.map((l) => `${l.name ? `${l.name} ` : ''}${title} ${says(l)}`).join('; ') || `no ${title} yet`}` },
    h('span.multi-head', null, plan.down ? null : h('b', null, c.name), best ? h('span', null, says(best)) : mine.length ? null : h('span', null, 'none yet')), plot(mine, a));
  };
  const el = plan.down
    ? h('table.multi', null, h('thead', null, h('tr', null, h('th', { scope: 'col' }, plan.down.key), plan.across.values.map((v) => h('th', { scope: 'col' }, `${plan.across.key} ${v}`)))),
      h('tbody', null, plan.bands.map((b) => h('tr', null, h('th', { scope: 'row' }, b.name), b.cells.map((c) => h('td', null, cell(c)))))))
    : h('div.multi-row', null, cells.map(cell));
  const what = a.once ? 'at the end of each run' : `from step ${int(a.first)} to ${int(a.last)}`, spread = all.some((l) => l.points.some((p) => finite(p.error)));
  return { el, about: `${title} ${what}, on the same axes${a.log ? ' (logarithmic)' : ''}${spread ? '; the mean of the seeds and one standard deviation' : ''}. A click chooses the runs of a plot.`,
    legend: names.length > 1 ? names.map((name, i) => ({ name: name || 'run', colour: `var(--run-${i % 8})` })) : [] };
}
