// One plot: a uPlot chart fed with thinned columns, its legend, keyboard cursor, non-finite
// markers, table alternative and exports. Knows lines and ranges, but no jobs. Used by curves.js,
// which owns the view that all panels share.
import { h, fill, num, int, duration, clamp, download, text } from './ui.js';
import { thin } from './series.js';

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function runColor(i) {
  return css(`--run-${i % 8}`);
}

// Whether the clock times of a range need the date.
export const spansDays = (a, b, axis) => axis === 'wall' && new Date(a * 1000).toDateString() !== new Date(b * 1000).toDateString();

export function formatX(v, axis, short = false, dated = false) {
  if (axis === 'wall') return new Date(v * 1000).toLocaleString([], { ...(dated ? { month: 'short', day: 'numeric' } : {}), hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
  if (axis === 'relative') return short ? duration(v).replace(' ', '\u202f') : duration(v);
  if (short && Math.abs(v) >= 1e4) return `${+(v / (Math.abs(v) >= 1e6 ? 1e6 : 1e3)).toPrecision(4)}${Math.abs(v) >= 1e6 ? 'M' : 'k'}`;
  return short ? String(+v.toPrecision(6)) : int(v);
}

// spec: {key, title, hint}; host: {view(), lines(spec), range(), setRange(a, b), pan(share), zoom(factor), reset(),
// csv(spec), sync}
export class Panel {
  constructor(spec, host) {
    this.spec = spec;
    this.host = host;
    this.legend = h('ul.legend');
    this.notes = h('p.sub.alerts', { hidden: true });
    this.plot = h('div.plot', { tabindex: '0', role: 'group', 'aria-label': spec.title,
      'aria-describedby': 'plot-keys', onkeydown: (e) => this.key(e) });
    this.tableBox = h('div.plot-table', { hidden: true, tabindex: '0', role: 'region', 'aria-label': `${spec.title}, table` });
    this.tableButton = h('button.quiet', { type: 'button', 'aria-pressed': 'false', 'aria-label': `${spec.title}: table`, onclick: () => this.toggleTable() }, 'Table');
    this.el = h('section.panel', { 'aria-label': spec.title, data: { panel: spec.key } },
      h('div.panel-head', null, h('h2', null, spec.title, spec.hint ? h('small', null, spec.hint) : null),
        h('div.panel-tools', null, this.tableButton,
          h('button.quiet', { type: 'button', 'aria-label': `${spec.title}: CSV`, onclick: () => host.csv(spec) }, 'CSV'),
          h('button.quiet', { type: 'button', 'aria-label': `${spec.title}: PNG`, onclick: () => this.png() }, 'PNG'))),
      this.legend, this.plot, this.tableBox, this.notes, spec.about ? h('p.sub.about-plot', null, spec.about) : null);
    this.resize = new ResizeObserver(() => this.fit());
    this.resize.observe(this.plot);
    this.panning();
  }

  destroy() {
    this.resize.disconnect();
    this.u?.destroy();
    this.u = null;
  }

  size() {
    return { width: Math.max(200, this.plot.clientWidth), height: clamp(Math.round(this.plot.clientWidth * 0.46), 190, 290) };
  }

  fit() {
    if (!this.u || !this.plot.clientWidth) return;
    const s = this.size();
    if (s.width === this.u.width && s.height === this.u.height) return;
    this.u.setSize(s);
    this.draw();
  }

  // Called when lines, axis kind, scale kind or theme changed.
  rebuild() {
    this.u?.destroy();
    this.u = null;
    this.lines = this.host.lines(this.spec);
    const view = this.host.view();
    const grid = { stroke: css('--grid'), width: 1 }, stroke = css('--muted'), font = '12px system-ui, sans-serif'; // whole pixels: uPlot multiplies the digits before px
    const series = [{}], bands = [];
    for (const l of this.lines) {
      const at = series.length;
      series.push({ scale: 'y', stroke: 'transparent', points: { show: false }, spanGaps: true },
        { scale: 'y', stroke: 'transparent', points: { show: false }, spanGaps: true },
        { scale: 'y', stroke: l.color, width: 1.75, dash: l.dash, spanGaps: true,
          points: { show: (u, i) => u.data[0].length < 40, size: 5, fill: l.color } });
      bands.push({ series: [at, at + 1], fill: l.band });
    }
    const options = {
      ...this.size(),
      legend: { show: false },
      padding: [8, 10, 0, 0],
      cursor: {
        drag: { x: true, y: false, setScale: false },
        sync: { key: this.host.sync, setSeries: false, scales: ['x', null] },
        points: { size: 7 },
        bind: { dblclick: () => () => { this.host.reset(); return null; } },
      },
      scales: {
        x: { time: view.axis === 'wall', distr: view.logx && view.axis === 'step' ? 3 : 1, range: () => this.host.range() },
        y: { distr: view.log ? 3 : 1 },
      },
      axes: [
        { stroke, font, grid, ticks: { ...grid, size: 4 }, space: 70, size: 30,
          ...(view.axis === 'wall' ? {} : { values: (u, vs) => vs.map((v) => (v === null ? '' : formatX(v, view.axis, true))) }) },
        { stroke, font, grid, ticks: { ...grid, size: 4 }, size: 62, scale: 'y',
          values: (u, vs) => tick(vs) },
      ],
      series, bands,
      hooks: {
        setSelect: [(u) => {
          if (u.select.width < 4) return;
          const a = u.posToVal(u.select.left, 'x'), b = u.posToVal(u.select.left + u.select.width, 'x');
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          this.host.setRange(a, b);
        }],
        setCursor: [() => this.values()],
        draw: [(u) => { this.markAlerts(u); this.markBad(u); }],
      },
    };
    this.plot.replaceChildren();
    this.u = new window.uPlot(options, this.data(), this.plot);
    this.makeLegend();
    this.values();
  }

  data() {
    const [a, b] = this.host.range();
    const columns = Math.max(100, this.size().width - 66);
    const t = thin(this.lines.map((l) => l.series()), this.lines.map((l) => l.axis()),
      this.lines.map((l) => l.offset()), a, b, columns);
    const log = this.host.view().log;
    const clean = (list) => (log ? list.map((v) => (v !== null && v > 0 ? v : null)) : list);
    this.thinned = t;
    const data = [t.xs];
    for (const o of t.out) data.push(clean(o.hi), clean(o.lo), clean(o.line));
    return data;
  }

  draw() {
    if (!this.u) return;
    this.el.hidden = this.isEmpty();
    if (this.el.hidden) return;
    this.u.setData(this.data());
    this.values();
    if (!this.tableBox.hidden) this.table();
  }

  // A metric without values is hidden once another one has some.
  isEmpty() {
    if (this.spec.lineless && !this.lines.length) return true; // nothing of it in the runs shown
    return !!this.spec.optional && this.lines.every((l) => !l.series().n);
  }

  // A dashed line and a triangle where the daemon gave an alert of one of the panel's kinds.
  markAlerts(u) {
    const ctx = u.ctx, r = devicePixelRatio || 1, foot = u.bbox.top + u.bbox.height;
    const [a, b] = this.host.range();
    const seen = (this.host.alerts?.(this.spec) ?? []).filter((m) => m.x >= a && m.x <= b);
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = css('--warn');
    ctx.lineWidth = r;
    for (const m of seen) {
      const x = Math.round(u.valToPos(m.x, 'x', true));
      ctx.setLineDash([3 * r, 3 * r]);
      ctx.beginPath(); ctx.moveTo(x, u.bbox.top); ctx.lineTo(x, foot); ctx.stroke();
      ctx.beginPath(); ctx.moveTo(x, foot - 8 * r); ctx.lineTo(x - 5 * r, foot); ctx.lineTo(x + 5 * r, foot); ctx.fill();
    }
    ctx.restore();
    this.el.dataset.alerts = seen.length;
    this.notes.hidden = !seen.length;
    const last = seen.slice(-2).map((m) => `${m.label}: ${m.text}`);
    text(this.notes, `${seen.length > 2 ? `${seen.length} alerts, the last two: ` : ''}${last.join('; ')}`);
  }

  // Red crosses along the top edge: steps whose value was not a finite number.
  markBad(u) {
    const ctx = u.ctx, r = devicePixelRatio || 1, top = u.bbox.top + 8 * r;
    ctx.save();
    ctx.strokeStyle = css('--bad');
    ctx.lineWidth = 2 * r;
    this.marks = 0;
    this.thinned.out.forEach((o) => o.bad.forEach((n, i) => {
      if (!n) return;
      const x = u.valToPos(this.thinned.xs[i], 'x', true);
      if (x < u.bbox.left - 1 || x > u.bbox.left + u.bbox.width + 1) return;
      this.marks++;
      ctx.beginPath();
      ctx.moveTo(x - 4 * r, top - 4 * r); ctx.lineTo(x + 4 * r, top + 4 * r);
      ctx.moveTo(x + 4 * r, top - 4 * r); ctx.lineTo(x - 4 * r, top + 4 * r);
      ctx.stroke();
    }));
    ctx.restore();
    this.el.dataset.marks = this.marks;
  }

  makeLegend() {
    this.cells = this.lines.map((l) => {
      const swatch = h('i.swatch', { 'aria-hidden': 'true' });
      swatch.style.background = l.color;
      if (l.dash) swatch.classList.add('dashed');
      return { value: h('b'), bad: h('em'), swatch, label: l.label };
    });
    fill(this.legend, this.cells.map((c) => h('li', null, c.swatch, h('span', null, c.label), c.value, c.bad)));
  }

  values() {
    if (!this.u || !this.cells) return;
    const i = this.u.cursor.idx;
    const { xs, out } = this.thinned;
    let said = '';
    this.lines.forEach((l, k) => {
      const s = l.series();
      const at = i !== null && i !== undefined && i < xs.length ? nearest(out[k].line, i) : NaN;
      const v = Number.isNaN(at) ? lastVisible(xs, out[k].line, this.host.range()[1]) ?? lastFinite(s) : out[k].line[at];
      text(this.cells[k].value, num(v));
      text(this.cells[k].bad, s.totalBad ? `${s.totalBad} not finite` : '');
      said += `, ${l.label} ${num(v, 3)}`;
    });
    const { axis } = this.host.view(), dated = spansDays(...this.host.range(), axis);
    const x = i !== null && i !== undefined && i < xs.length ? `at ${axis} ${formatX(xs[i], axis, false, dated)}` : 'last value';
    this.summary = `${this.spec.title} ${x}${said}`;
    this.plot.setAttribute('aria-label', this.summary);
  }

  key(e) {
    if (!this.u || e.ctrlKey || e.metaKey || e.altKey) return;
    const n = this.thinned.xs.length;
    const at = this.u.cursor.idx ?? n - 1;
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - 20, PageDown: at + 20, Home: 0, End: n - 1 };
    if (e.shiftKey && (e.key === 'ArrowLeft' || e.key === 'ArrowRight')) {
      this.host.pan(e.key === 'ArrowLeft' ? -0.1 : 0.1);
    } else if (e.key in moves) {
      const i = clamp(moves[e.key], 0, n - 1);
      this.u.setCursor({ left: Math.max(0, this.u.valToPos(this.thinned.xs[i], 'x')), top: 10 }, true, true); // in all plots
      this.host.say(this.summary);
    } else if (e.key === '+' || e.key === '=' || e.key === '-') {
      this.host.zoom(e.key === '-' ? 1.6 : 1 / 1.6, this.thinned.xs[this.u.cursor.idx]);
    } else if (e.key === '0' || e.key === 'Escape') {
      this.host.reset();
    } else {
      return;
    }
    e.preventDefault();
  }

  // Shift and drag pans; wheel with ctrl zooms, a sideways wheel pans.
  panning() {
    this.plot.addEventListener('mousedown', (e) => {
      if (!e.shiftKey || e.button || !this.u) return;
      e.preventDefault();
      e.stopImmediatePropagation();
      const from = this.host.range(), x0 = e.clientX, width = this.u.bbox.width / (devicePixelRatio || 1);
      const move = (m) => this.host.pan((x0 - m.clientX) / width, from);
      const up = () => { removeEventListener('mousemove', move); removeEventListener('mouseup', up); };
      addEventListener('mousemove', move);
      addEventListener('mouseup', up);
    }, true);
    this.plot.addEventListener('wheel', (e) => {
      if (!this.u) return;
      if (e.ctrlKey) {
        const left = e.clientX - this.u.over.getBoundingClientRect().left;
        this.host.zoom(Math.exp(e.deltaY * 0.004), this.u.posToVal(left, 'x'));
      } else if (Math.abs(e.deltaX) > Math.abs(e.deltaY)) {
        this.host.pan(e.deltaX / this.plot.clientWidth);
      } else {
        return;
      }
      e.preventDefault();
    }, { passive: false });
  }

  toggleTable() {
    this.tableBox.hidden = !this.tableBox.hidden;
    this.tableButton.setAttribute('aria-pressed', String(!this.tableBox.hidden));
    this.plot.hidden = !this.tableBox.hidden;
    if (this.tableBox.hidden) { this.fit(); this.draw(); } else this.table();
  }

  table() {
    const [a, b] = this.host.range(), axis = this.host.view().axis, dated = spansDays(a, b, axis);
    const t = thin(this.lines.map((l) => l.series()), this.lines.map((l) => l.axis()), this.lines.map((l) => l.offset()), a, b, 24);
    fill(this.tableBox, h('table', null,
      h('thead', null, h('tr', null, h('th', { scope: 'col' }, axis), this.lines.map((l) => h('th', { scope: 'col' }, l.label)))),
      h('tbody', null, t.xs.map((x, i) => h('tr', null, h('th', { scope: 'row' }, formatX(x, axis, false, dated)),
        t.out.map((o) => h('td', null, num(o.line[i]), o.bad[i] ? ` (${o.bad[i]} not finite)` : '')))))));
  }

  png() {
    const src = this.u.ctx.canvas, r = devicePixelRatio || 1, top = 44 * r;
    const c = h('canvas');
    c.width = src.width;
    c.height = src.height + top;
    const ctx = c.getContext('2d');
    ctx.fillStyle = css('--panel');
    ctx.fillRect(0, 0, c.width, c.height);
    ctx.fillStyle = css('--ink');
    ctx.font = `600 ${Math.round(13 * r)}px system-ui, sans-serif`;
    const window = this.host.view().window;
    ctx.fillText(this.spec.title, 12 * r, 18 * r);
    const after = 20 * r + ctx.measureText(this.spec.title).width;
    ctx.font = `${Math.round(11 * r)}px system-ui, sans-serif`;
    ctx.fillStyle = css('--muted');
    ctx.fillText(`by ${this.host.view().axis}${window > 1 ? `, EMA over ${window} steps` : ''}`, after, 18 * r);
    let x = 12 * r;
    for (const l of this.lines) {
      ctx.fillStyle = l.color;
      ctx.fillRect(x, 30 * r, 12 * r, 3 * r);
      ctx.fillStyle = css('--muted');
      ctx.fillText(l.label, x + 16 * r, 35 * r);
      x += ctx.measureText(l.label).width + 32 * r;
    }
    ctx.drawImage(src, 0, top);
    c.toBlob((b) => download(b, `driftd-${this.spec.key}.png`));
  }
}

// The labels of one axis, all in the format of the largest.
export function tick(values) {
  const top = Math.max(...values.map((v) => Math.abs(v ?? 0)));
  const plain = top < 1e5 && top >= 1e-3;
  return values.map((v) => {
    if (v === null || v === undefined) return '';
    if (v === 0) return '0';
    if (plain) return String(+v.toPrecision(4)).replace('-', '−');
    const [m, e] = v.toExponential(2).split('e');
    return `${+m}e${+e}`.replaceAll('-', '−');
  });
}

function nearest(list, i) {
  for (let d = 0; d < list.length; d++) {
    if (list[i - d] !== null && list[i - d] !== undefined) return i - d;
    if (list[i + d] !== null && list[i + d] !== undefined) return i + d;
  }
  return NaN;
}

// The line's value at the right end of what is in view.
function lastVisible(xs, line, end) {
  for (let i = xs.length - 1; i >= 0; i--) if (xs[i] <= end && line[i] !== null && line[i] !== undefined) return line[i];
  return null;
}

function lastFinite(s) {
  for (let i = s.n - 1; i >= 0; i--) if (!Number.isNaN(s.ema[i])) return s.ema[i];
  return null;
}
