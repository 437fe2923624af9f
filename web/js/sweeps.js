// Sweeps: many runs from one file, as a list of groups, and one of them with its parallel coordinates (a
// line per configuration over all axes and metrics), its table, a metric in small multiples and in one
// plot, and its runs.
import { at, blobOf, get, poll, post, query, raw, secured } from './api.js';
import { h, svg, fill, redraw, text, num, int, duration, when, badge, toast, empty, head, keepInAddress, fileLink } from './ui.js';
import { finite } from './evalrow.js';
import { multiples, show } from './multiples.js';

const open = (s) => ['queued', 'running', 'stopping'].includes(s.state);

const summary = (s) => [`${int(s.runs.completed)} of ${int(s.runs.total)} runs done`, s.runs.running ? `${int(s.runs.running)} running` : '', s.runs.queued ? `${int(s.runs.queued)} queued` : '',
  s.evaluating ? `${int(s.evaluating)} evaluating` : '', s.runs.failed ? `${int(s.runs.failed)} failed` : '', s.rungs > 1 ? `rung ${s.rung + 1} of ${s.rungs}` : ''].filter(Boolean).join(' · ');

async function act(s, action, done) {
  try {
    if (action !== 'remove') await post(`/v1/sweeps/${s.id}/${action}`);
    else {
      if (!confirm(`Delete sweep ${s.id} (${s.name}) with its ${s.runs.total} runs, their checkpoints and metrics?`)) return;
      await raw(`/v1/sweeps/${s.id}?jobs=delete`, { method: 'DELETE' });
      toast(`Sweep ${s.id} is deleted.`);
    }
    done();
  } catch (e) { toast(e.message, true); }
}

function buttons(s, done) {
  const button = (action, label) => h(action === 'remove' ? 'button.danger' : 'button.quiet', { type: 'button', 'aria-label': `${label} sweep ${s.id}`, onclick: () => act(s, action, done) }, label);
  return [open(s) && s.state !== 'stopping' ? button('stop', 'Stop') : null, ['stopped', 'failed'].includes(s.state) ? button('resume', 'Resume') : null, open(s) ? null : button('remove', 'Delete')];
}

const card = (s, done) => h('article.run', { data: { sweep: s.id, state: s.state }, 'aria-label': `Sweep ${s.id}, ${s.name}, ${s.state}` },
  h('div.run-top', null, h('div', null, h('a.run-name', { href: `#/sweeps?id=${s.id}` }, s.name), h('p.sub', null, `sweep ${s.id} · ${s.about || s.kind} · created `, when(s.created))), badge(s.state)),
  h('div.run-bar', null, h('progress', { max: '1', value: String(s.progress), 'aria-label': `Progress of sweep ${s.id}` })),
  h('p.sub', null, summary(s)), s.error ? h('p.error', null, s.error) : null,
  h('div.run-actions', null, h('a.button.quiet', { href: `#/sweeps?id=${s.id}` }, 'Table and plots'), h('span.spacer'), buttons(s, done)));

// ---- parallel coordinates ----

// The axes: what the runs differ in, then the metrics. Words stand in their order, numbers to scale.
function axesOf(table) {
  const of = (name, values, label) => {
    const real = values.every((v) => v === null || v === undefined || finite(v)) && values.some(finite);
    const words = [...new Set(values.map(show))], all = values.filter(finite), lo = Math.min(...all), hi = Math.max(...all);
    const place = (v) => (real ? (finite(v) ? (hi > lo ? (v - lo) / (hi - lo) : 0.5) : null) : words.length > 1 ? words.indexOf(show(v)) / (words.length - 1) : 0.5);
    return { name, label, place, ticks: real ? (hi > lo ? [lo, hi] : [lo]).map((v) => [place(v), num(v)]) : words.map((w, i) => [words.length > 1 ? i / (words.length - 1) : 0.5, w]) };
  };
  const rows = table.rows, alphas = new Set(rows.map((r) => r.alpha));
  const list = table.params.filter((p) => new Set(rows.map((r) => show(r.params[p]))).size > 1)
    .map((p) => ({ ...of(p, rows.map((r) => r.params[p]), p), get: (r) => r.params[p] }));
  if (alphas.size > 1) list.push({ ...of('alpha', rows.map((r) => r.alpha), 'alpha'), get: (r) => r.alpha });
  for (const { name, better } of table.metrics) {
    const get1 = (r) => r.values[name]?.mean ?? null;
    if (rows.some((r) => finite(get1(r)))) list.push({ ...of(name, rows.map(get1), `${name.replaceAll('_', ' ')}${better ? ` (${better === 'one' ? 'near 1' : `${better} is better`})` : ''}`), get: get1, metric: true });
  }
  return list;
}

function parallel(table, chosen, choose) {
  const axes = axesOf(table), rows = table.rows.filter((r) => r.runs);
  if (axes.length < 2 || !rows.length) return null;
  const step = 150, w = Math.max(420, step * (axes.length - 1) + 220), top = 46, height = 340, bottom = 18, X = (i) => 110 + (i * (w - 220)) / (axes.length - 1), Y = (p) => height - bottom - p * (height - top - bottom);
  const parts = [];
  axes.forEach((a, i) => {
    parts.push(svg('path', { d: `M${X(i)} ${top}V${height - bottom}`, class: 'pc-axis' }), svg('text', { x: X(i), y: i % 2 ? 14 : 32, 'text-anchor': 'middle', class: 'pc-name' }, a.label));
    for (const [p, word] of a.ticks) parts.push(svg('text', { x: X(i) + 7, y: Y(p) + 4, class: 'pc-tick' }, word.length > 18 ? `${word.slice(0, 17)}…` : word));
  });
  rows.forEach((r) => {
    const k = table.rows.indexOf(r), points = axes.map((a, i) => [X(i), a.place(a.get(r))]).filter(([, p]) => p !== null);
    const line = svg('path', { d: points.map(([x, p], i) => `${i ? 'L' : 'M'}${x.toFixed(1)} ${Y(p).toFixed(1)}`).join(''), class: 'pc-line', 'data-row': k, 'data-chosen': chosen.has(k) }, svg('title', {}, r.label));
    line.addEventListener('click', () => choose([k]));
    parts.push(line);
  });
  return svg('svg', { viewBox: `0 0 ${w} ${height}`, width: w, height, class: 'pc', role: 'img', 'aria-label': `Parallel coordinates: ${rows.length} configurations over ${axes.map((a) => a.label).join(', ')}. The table below has the numbers.` }, ...parts);
}

// ---- the table ----

function tableOf(table, chosen, choose, sort, resort) {
  const value = (r, key) => (key in r.params ? r.params[key] : key in r ? r[key] : r.values[key]?.mean ?? null);
  const columns = [...table.params, ...(table.halving ? ['rung'] : []), 'alpha', 'runs', 'steps', 'seconds', ...table.metrics.map((m) => m.name)];
  const order = table.rows.map((r, k) => [r, k]);
  if (sort.key) {
    order.sort(([a], [b]) => {
      const x = value(a, sort.key), y = value(b, sort.key);
      if (x === null || y === null) return (x === null) - (y === null);
      return (sort.down ? -1 : 1) * (finite(x) && finite(y) ? x - y : show(x).localeCompare(show(y)));
    });
  }
  const cell = (r, key) => {
    const v = r.values[key];
    if (!(key in r.params) && v) return `${num(v.mean)}${v.sd === null ? '' : ` ± ${num(v.sd, 2)}`}`;
    if (key === 'runs') return `${int(r.runs)} of ${int(r.of)}`;
    if (key === 'seconds') return duration(r.seconds);
    return value(r, key) === null ? '–' : show(value(r, key));
  };
  return h('table', null, h('thead', null, h('tr', null, columns.map((key) => h('th', { 'aria-sort': sort.key === key ? (sort.down ? 'descending' : 'ascending') : null },
    h('button.quiet', { type: 'button', data: { col: key }, onclick: () => resort(key) }, key.replaceAll('_', ' ')))))),
  h('tbody', null, order.map(([r, k]) => h('tr', { data: { row: String(k), chosen: String(chosen.has(k)) }, onclick: () => choose([k]) },
    columns.map((key, i) => h('td', null, i ? cell(r, key) : h('button.row-pick', { type: 'button', data: { pick: String(k) }, 'aria-pressed': String(chosen.has(k)) }, cell(r, key))))))));
}

// ---- the page ----

// For a request that is repeated: its error is shown once, until it works again.
function complaints() {
  let said = false;
  return { error(e) { if (!said) toast(e.message, true); said = true; }, none() { said = false; } };
}

function list(root) {
  let closed = false, seen = '';
  const trouble = complaints();
  const box = h('div.runs');
  fill(root, head('Sweeps', 'Many runs from one file: every combination, evaluated in the same way.', h('a.button', { href: '#/runs' }, 'Runs')), box);
  async function load() {
    try {
      const { sweeps } = await get('/v1/sweeps?limit=200');
      trouble.none();
      const now = JSON.stringify(sweeps);
      if (closed || now === seen) return;
      seen = now;
      redraw(box, () => fill(box, sweeps.length ? sweeps.map((s) => card(s, load)) : empty('No sweeps yet', 'A sweep runs every combination of recipes, changed keys and seeds, and ends in one table.',
        h('p', null, h('code', null, 'driftctl ablate FILE.json')))));
    } catch (e) { if (!closed) trouble.error(e); }
  }
  const polls = poll(load, 4000);
  return () => { closed = true; polls.end(); };
}

function detail(root, id, params) {
  let s = null, curve = null, chosen = new Set(), closed = false, seen = '', metric = params.get('metric') ?? '', wide = 0, turn = 0, url = ''; // chosen: places in the table's rows
  const trouble = complaints();
  const sort = { key: params.get('sort') ?? '', down: params.get('down') === '1' };
  const title = h('div'), progress = h('progress', { max: '1', value: '0', 'aria-label': `Progress of sweep ${id}` }), sub = h('p.sub', { 'aria-live': 'polite' }), error = h('p.error', { hidden: true });
  const lines = h('div.card.scroll', { tabindex: '0', role: 'region', 'aria-label': 'Parallel coordinates' }), table = h('div.card.scroll.sweep-table', { tabindex: '0', role: 'region', 'aria-label': 'Table of the sweep' });
  const pick = h('select', { onchange: () => { metric = pick.value; drawMetric(); keep(); } }), legend = h('ul.legend'), about = h('p.sub'), picture = h('img.sweep-plot', { alt: '' });
  const small = h('div.scroll.multi-box', { tabindex: '0', role: 'region', 'aria-label': 'Small multiples' }), together = h('figure', null, h('figcaption', null, 'All configurations in one plot'), picture);
  const oneMetric = h('section.card.sweep-metric', { 'aria-label': 'A metric' }, h('div.line.wrap', null, h('h2', null, 'One metric'), h('label.control', null, h('span', null, 'Metric'), pick)), legend, small, about, together);
  const runs = h('div.card.scroll', { tabindex: '0', role: 'region', 'aria-label': 'Runs of the sweep' });
  fill(root, title, progress, sub, error, lines, table, oneMetric, runs);

  const keep = () => { if (!closed) keepInAddress('sweeps', query({ id, metric, sort: sort.key, down: sort.down ? 1 : '' })); };
  const all = (list) => list.length > 0 && list.every((k) => chosen.has(k));
  const choose = (list) => {
    chosen = new Set(all(list) && chosen.size === list.length ? [] : list);
    draw();
    for (const b of small.querySelectorAll('.multi-cell')) b.setAttribute('aria-pressed', String(all(b.dataset.rows.split(',').map(Number))));
  };
  const resort = (key) => { sort.down = sort.key === key && !sort.down; sort.key = key; draw(); keep(); };
  function paint(src) {
    URL.revokeObjectURL(url); // nothing happens to a plain address
    url = src;
    picture.src = src;
  }
  async function drawMetric() {
    const mine = ++turn;
    const names = [...new Set([...s.table.metrics.map((m) => m.name), 'loss', 'drift_norm'])];
    if (!names.includes(metric)) metric = names[0];
    if (names.join() !== [...pick.options].map((o) => o.value).join()) fill(pick, names.map((n) => h('option', { value: n }, n.replaceAll('_', ' '))));
    pick.value = metric;
    picture.alt = `${metric.replaceAll('_', ' ')} against the step, one line per configuration`;
    const plot = `/v1/sweeps/${id}.png?${query({ metric })}`;
    try {
      const file = secured() ? await blobOf(await raw(plot)) : null;
      if (closed || mine !== turn) return;
      paint(file ? URL.createObjectURL(file) : at(plot));
      const c = await get(`/v1/sweeps/${id}/curve?${query({ metric })}`);
      if (closed || mine !== turn) return;
      curve = c;
      drawSmall();
    } catch (e) { toast(e.message, true); }
  }
  function drawSmall() {
    wide = small.clientWidth || root.clientWidth - 40;
    const m = multiples(s.table, curve, { width: wide, rungs: s.rungs, choose, chosen: all });
    small.hidden = about.hidden = !m;
    redraw(small, () => fill(small, m?.el));
    text(about, m?.about ?? '');
    legend.hidden = !m?.legend.length;
    fill(legend, m?.legend.map((l) => { const key = h('span.swatch'); key.style.background = l.colour; return h('li', null, key, l.name); }));
  }
  const resize = new ResizeObserver(() => { if (curve && small.clientWidth && Math.abs(small.clientWidth - wide) > 8) drawSmall(); });
  resize.observe(oneMetric);
  function draw() {
    const plot = parallel(s.table, chosen, choose);
    lines.hidden = !plot;
    fill(lines, plot);
    redraw(table, () => fill(table, tableOf(s.table, chosen, choose, sort, resort)));
    const mine = !chosen.size ? s.list : s.list.filter((c) => [...chosen].some((k) => s.table.rows[k]?.cells.includes(c.cell)));
    redraw(runs, () => fill(runs, h('table', null, h('thead', null, h('tr', null, ['run', 'configuration', 'seed', 'state', 'step', 'evaluation'].map((t) => h('th', null, t)))),
      h('tbody', null, mine.map((c) => h('tr', { data: { cell: String(c.cell) } }, h('td', null, c.job ? h('a', { href: `#/curves?runs=${c.job}` }, c.job) : '–'), h('td', null, c.label), h('td', null, String(c.seed)),
        h('td', null, badge(c.state)), h('td', null, `${int(c.step)} / ${int(c.steps_total)}`), h('td', null, c.evaluation ?? '–')))))));
  }
  async function load() {
    try {
      const d = await get(`/v1/sweeps/${encodeURIComponent(id)}`), now = JSON.stringify([d.state, d.runs, d.evaluating, d.table, d.progress]);
      trouble.none();
      if (closed || now === seen) return;
      seen = now;
      s = d;
      redraw(title, () => fill(title, head(s.name, s.about || `sweep ${id}`, h('a.button', { href: '#/sweeps' }, 'All sweeps'), fileLink('a.button', `/v1/sweeps/${id}.csv`, `sweep-${id}.csv`, {}, 'CSV'),
        fileLink('a.button', `/v1/sweeps/${id}.md`, `sweep-${id}.md`, {}, 'Markdown'), buttons(s, load))));
      progress.value = s.progress;
      text(sub, `${s.state}: ${summary(s)}`);
      error.hidden = !s.error;
      text(error, s.error ?? '');
      draw();
      await drawMetric();
    } catch (e) {
      if (e.status === 404) location.hash = '#/sweeps';
      else if (!closed) trouble.error(e);
    }
  }
  const polls = poll(load, 2500, () => !s || open(s));
  return () => { closed = true; polls.end(); resize.disconnect(); URL.revokeObjectURL(url); };
}

export function mount(root, params) {
  const id = params.get('id');
  return id ? detail(root, id, params) : list(root);
}
