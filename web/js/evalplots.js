// The plots of the page Evaluations: one metric against the step or the guidance scale (uPlot), and two
// metrics against each other (SVG). Curves of another group than the one looked at are grey and dashed.
import { h, svg, fill, num, int, text } from './ui.js';
import { runColor, formatX, tick } from './panel.js';
import { best, curveName, curves, estimate, finite, overFloor, value } from './evalrow.js';

const MOST = 12; // curves in a plot
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Colours of curves, the same in each plot: by order of appearance in the group looked at.
export function colours(list, group) {
  const map = new Map();
  let i = 0;
  for (const c of list) map.set(c.key, c.of.comparable === group ? runColor(i++) : css('--muted'));
  return map;
}

function swatch(colour, dashed) {
  const el = h(`i.swatch${dashed ? '.dashed' : ''}`, { 'aria-hidden': 'true' });
  el.style.background = colour;
  return el;
}

function frame(kind, name, tools) {
  const legend = h('ul.legend', { tabindex: '0', 'aria-label': `Curves of ${name}` }), note = h('p.sub.note', { hidden: true }), title = h('h2', null, name);
  const plot = h('div.plot', { tabindex: '0', role: 'group', 'aria-label': name });
  const el = h('section.panel', { 'aria-label': name, data: { plot: kind } }, h('div.panel-head', null, title, h('div.panel-tools', null, tools)), legend, plot, note);
  return { el, legend, plot, note, title };
}

// x: step or alpha. link(): the address of the server's picture of the same curves.
export function chart(x, name, link, save) {
  const png = h('a.button.quiet', { 'aria-label': `${name}: PNG`, onclick: (e) => { e.preventDefault(); save(); } }, 'PNG');
  const { el, legend, plot, note, title } = frame(x, name, png);
  let u = null, list = [], state = null, xs = [];

  const shown = (r) => (state.over ? overFloor(r, state.metric) : value(r, state.metric));
  const spread = (r) => { const e = r.errors?.[state.metric]; return finite(e) ? (state.over ? e / r.floors[state.metric] : e) : 0; };
  const ok = (v) => v !== null && (!state.log || v > 0);
  // The floor of the group looked at: the mean of its runs'.
  function floor() {
    const all = list.filter((c) => c.of.comparable === state.group).flatMap((c) => [...c.points.values()]).map((r) => r.floors?.[state.metric]).filter(finite);
    return !all.length ? null : state.over ? 1 : all.reduce((a, b) => a + b) / all.length;
  }
  function range() {
    let lo = Infinity, hi = -Infinity;
    const take = (v) => { if (Number.isFinite(v) && (!state.log || v > 0)) { lo = Math.min(lo, v); hi = Math.max(hi, v); } };
    for (const c of list) for (const r of c.points.values()) { const v = shown(r), e = spread(r); take(v - e); take(v); take(v + e); }
    const f = floor();
    if (f !== null) take(f);
    if (lo > hi) return state.log ? [0.1, 1] : [0, 1];
    if (state.log) return [lo / 1.2, hi * 1.2];
    const pad = (hi - lo || Math.abs(hi) || 1) * 0.08;
    return [lo >= 0 ? Math.max(0, lo - pad) : lo - pad, hi + pad];
  }
  function marks(v) {
    const { ctx } = v, r = devicePixelRatio || 1, f = floor();
    ctx.save();
    ctx.beginPath();
    ctx.rect(v.bbox.left, v.bbox.top, v.bbox.width, v.bbox.height);
    ctx.clip();
    ctx.lineWidth = r;
    if (ok(f)) {
      const y = v.valToPos(f, 'y', true);
      ctx.strokeStyle = ctx.fillStyle = css('--muted');
      ctx.setLineDash([2 * r, 3 * r]);
      ctx.beginPath(); ctx.moveTo(v.bbox.left, y); ctx.lineTo(v.bbox.left + v.bbox.width, y); ctx.stroke();
      ctx.setLineDash([]);
      ctx.font = `${11.5 * r}px system-ui, sans-serif`;
      ctx.textAlign = 'right';
      ctx.fillText('floor', v.bbox.left + v.bbox.width - 4 * r, y + (y - v.bbox.top < 18 * r ? 13 : -4) * r);
    }
    for (const c of list) {
      ctx.strokeStyle = state.colour(c, x);
      ctx.beginPath();
      for (const [at, one] of c.points) {
        const e = spread(one), mid = shown(one);
        if (!e || !ok(mid)) continue;
        const px = v.valToPos(at, 'x', true), a = v.valToPos(ok(mid - e) ? mid - e : mid, 'y', true), b = v.valToPos(mid + e, 'y', true);
        ctx.moveTo(px, a); ctx.lineTo(px, b);
        ctx.moveTo(px - 3 * r, a); ctx.lineTo(px + 3 * r, a);
        ctx.moveTo(px - 3 * r, b); ctx.lineTo(px + 3 * r, b);
      }
      ctx.stroke();
    }
    ctx.restore();
  }
  function size() { return { width: Math.max(200, plot.clientWidth), height: 260 }; }
  const place = (at) => (x === 'step' ? `step ${int(at)}` : `α ${num(at)}`);
  // The legend: values at the cursor, else the best of each curve.
  function values() {
    const i = u?.cursor.idx;
    list.forEach((c, k) => {
      const at = i === null || i === undefined ? null : xs[i], r = at === null ? null : c.points.get(at);
      const [bx, br] = best(c, state.metric, state.how);
      text(legend.children[k].lastChild, r ? `${state.over ? `${ratio(r)} at ` : `${estimate(shown(r), r.errors?.[state.metric])} at `}${place(at)}`
        : `best ${state.over ? ratio(br) : num(shown(br))} at ${place(bx)}`);
    });
    if (i !== null && i !== undefined) plot.setAttribute('aria-label', `${name}, ${place(xs[i])}: ${[...legend.children].map((li) => li.textContent).join('; ')}`);
  }
  const ratio = (r) => `${num(shown(r), 3)} × floor`;
  plot.addEventListener('keydown', (e) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!by || !u) return;
    e.preventDefault();
    const i = Math.max(0, Math.min(xs.length - 1, (u.cursor.idx ?? (by > 0 ? -1 : xs.length)) + by));
    u.setCursor({ left: u.valToPos(xs[i], 'x'), top: u.over.clientHeight / 2 });
  });

  // next: {rows, metric, how, log, over, group, letter(key), colour(curve)}
  function draw(next) {
    u?.destroy();
    u = null;
    state = next;
    png.href = link();
    const all = curves(state.rows, [state.metric], x).filter((c) => {
      if (state.over) for (const [at, r] of c.points) if (shown(r) === null) c.points.delete(at);
      return c.points.size && (x === 'step' || c.points.size > 1);
    });
    all.sort((a, b) => (b.of.comparable === state.group) - (a.of.comparable === state.group));
    list = all.slice(0, MOST);
    el.dataset.lines = list.length;
    text(title, `${state.metric.replaceAll('_', ' ')} against the ${x === 'step' ? 'step' : 'guidance scale'}`);
    note.hidden = list.length > 0 && all.length <= MOST;
    text(note, all.length > MOST ? `${all.length - MOST} more are not drawn; choose one run above.` : x === 'step' ? 'No finished run has this metric yet.'
      : 'Evaluate a checkpoint at several guidance scales, as 1, 1.5, 2, to see a curve here.');
    fill(plot);
    fill(legend, list.map((c) => {
      const other = c.of.comparable !== state.group;
      return h('li', { title: other ? `not comparable: group ${state.letter(c.of.comparable)}` : null }, swatch(state.colour(c, x), other),
        h('span', null, `${curveName(c, list, x)}${other ? ` (group ${state.letter(c.of.comparable)}, not comparable)` : ''}`), h('b'));
    }));
    if (!list.length) return;
    xs = [...new Set(list.flatMap((c) => [...c.points.keys()]))].sort((a, b) => a - b);
    const grid = { stroke: css('--grid'), width: 1 }, stroke = css('--muted'), font = '11.5px system-ui, sans-serif';
    u = new window.uPlot({
      ...size(), legend: { show: false }, padding: [8, 10, 0, 0], cursor: { drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: false, range: (v, a, b) => (a === b ? [a - 1, b + 1] : [a - (b - a) * 0.03, b + (b - a) * 0.03]) },
        y: { distr: state.log ? 3 : 1, range } },
      axes: [{ stroke, font, grid, ticks: { ...grid, size: 4 }, size: 30, space: 70, values: (v, vs) => vs.map((n) => (n === null ? '' : formatX(n, 'step', true))) },
        { stroke, font, grid, ticks: { ...grid, size: 4 }, size: 62, values: (v, vs) => tick(vs) }],
      series: [{}, ...list.map((c) => {
        const other = c.of.comparable !== state.group, colour = state.colour(c, x);
        return { stroke: colour, width: 1.75, spanGaps: true, dash: other ? [4, 4] : undefined, points: { show: true, size: 6, fill: other ? css('--panel') : colour } };
      })],
      hooks: { draw: [marks], setCursor: [values] },
    }, [xs, ...list.map((c) => xs.map((at) => { const r = c.points.get(at), v = r ? shown(r) : null; return ok(v) ? v : null; }))], plot);
    plot.setAttribute('aria-label', `${name}: ${list.length} curve${list.length === 1 ? '' : 's'}`);
    values();
  }
  const resize = new ResizeObserver(() => { if (u && plot.clientWidth && size().width !== u.width) u.setSize(size()); });
  resize.observe(plot);
  return { el, draw, destroy() { resize.disconnect(); u?.destroy(); } };
}

// ---- two metrics against each other ----

// Pairs of metrics that are read together: [across, up].
export const pairs = [['recall', 'precision'], ['coverage', 'density']];

export function scatterPlot() {
  const pick = h('select', { 'aria-label': 'Metrics of the plane', onchange: () => paint() });
  const { el, legend, plot, note } = frame('plane', 'Precision and recall', pick);
  plot.removeAttribute('tabindex');
  let state = null;

  function paint() {
    const have = pairs.filter((p) => state.rows.some((r) => p.every((n) => value(r, n) !== null)));
    const chosen = have.find((p) => p.join() === pick.value) ?? have[0];
    fill(pick, have.map((p) => h('option', { value: p.join(), selected: p === chosen }, `${p[1]} and ${p[0]}`)));
    pick.hidden = have.length < 2;
    fill(plot);
    fill(legend);
    note.hidden = !!chosen;
    text(note, 'No finished run has precision and recall yet; they need a judge.');
    el.dataset.lines = 0;
    if (!chosen) return;
    const list = curves(state.rows, chosen, 'step').sort((a, b) => (b.of.comparable === state.group) - (a.of.comparable === state.group)).slice(0, MOST);
    el.dataset.lines = list.length;
    fill(legend, list.map((c) => h('li', null, swatch(state.colour(c, 'step'), c.of.comparable !== state.group),
      h('span', null, `${curveName(c, list, 'step')}${c.of.comparable === state.group ? '' : ` (group ${state.letter(c.of.comparable)}, not comparable)`}`))));
    plane(list, chosen);
  }

  function plane(list, [across, up]) {
    const w = Math.max(220, plot.clientWidth), height = 260, left = 50, right = 14, top = 10, bottom = 38;
    const rows = list.flatMap((c) => [...c.points.values()]), most = (n) => Math.max(1, ...rows.map((r) => value(r, n)), ...rows.map((r) => r.floors?.[n]).filter(finite)) * 1.04;
    const mx = most(across), my = most(up), X = (v) => left + (Math.max(0, v) / mx) * (w - left - right), Y = (v) => height - bottom - (Math.max(0, v) / my) * (height - top - bottom);
    const ticks = (m) => { const step = m > 4 ? Math.ceil(m / 4) : m > 2 ? 1 : m > 1.3 ? 0.5 : 0.25; return Array.from({ length: Math.floor(m / step) + 1 }, (_, i) => i * step); };
    const label = (x, y, s, anchor = 'middle', turn) => svg('text', { x, y, 'text-anchor': anchor, transform: turn }, s);
    const parts = [];
    for (const t of ticks(mx)) parts.push(svg('path', { d: `M${X(t)} ${top}V${height - bottom}`, class: 'grid' }), label(X(t), height - bottom + 15, tick([t])[0]));
    for (const t of ticks(my)) parts.push(svg('path', { d: `M${left} ${Y(t)}H${w - right}`, class: 'grid' }), label(left - 6, Y(t) + 4, tick([t])[0], 'end'));
    parts.push(label((left + w - right) / 2, height - 5, across), label(13, (top + height - bottom) / 2, up, 'middle', `rotate(-90 13 ${(top + height - bottom) / 2})`));
    const floors = rows.filter((r) => r.comparable === state.group && finite(r.floors?.[across]) && finite(r.floors?.[up]));
    if (floors.length) {
      const mean = (n) => floors.reduce((a, r) => a + r.floors[n], 0) / floors.length, fx = X(mean(across)), fy = Y(mean(up));
      parts.push(svg('path', { d: `M${fx - 5} ${fy - 5}l10 10m-10 0l10 -10`, class: 'floor' }, svg('title', {}, `real images: ${across} ${num(mean(across))}, ${up} ${num(mean(up))}`)),
        label(fx - 9, fy + 4, 'reals', 'end'));
    }
    for (const c of list) {
      const other = c.of.comparable !== state.group, colour = state.colour(c, 'step'), points = [...c.points];
      const bar = (r, n, at) => { const e = r.errors?.[n]; return finite(e) && e > 0 ? at(value(r, n) - e, value(r, n) + e) : ''; };
      const line = svg('path', { d: points.map(([, r], i) => `${i ? 'L' : 'M'}${X(value(r, across))} ${Y(value(r, up))}`).join(''), class: 'way' });
      const errors = svg('path', { d: points.map(([, r]) => bar(r, across, (a, b) => `M${X(a)} ${Y(value(r, up))}H${X(b)}`) + bar(r, up, (a, b) => `M${X(value(r, across))} ${Y(a)}V${Y(b)}`)).join(''), class: 'bars' });
      if (other) line.setAttribute('stroke-dasharray', '4 4');
      const g = svg('g', { class: 'series' }, line, errors, points.map(([step, r], i) => {
        const dot = svg('circle', { cx: X(value(r, across)), cy: Y(value(r, up)), r: i === points.length - 1 ? 5 : 3.5 },
          svg('title', {}, `${curveName(c, list, 'step')}, step ${int(step)}: ${across} ${estimate(value(r, across), r.errors?.[across])}, ${up} ${estimate(value(r, up), r.errors?.[up])}`));
        if (other) dot.classList.add('other');
        return dot;
      }));
      g.style.color = colour;
      parts.push(g);
    }
    plot.append(svg('svg', { width: w, height, viewBox: `0 0 ${w} ${height}`, class: 'plane', role: 'img', 'aria-label': `${up} against ${across} of ${rows.length} runs; the table below has the values` }, parts));
  }
  const resize = new ResizeObserver(() => { const now = plot.firstChild; if (state && now && Math.max(220, plot.clientWidth) !== +now.getAttribute('width')) paint(); });
  resize.observe(plot);
  return { el, draw(next) { state = next; paint(); }, destroy() { resize.disconnect(); } };
}
