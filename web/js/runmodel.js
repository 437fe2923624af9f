// The metrics of one run for the curves page: the whole history in bounded memory, rows of the live
// stream appended without gap or duplicate, and a finer piece for a zoomed range. curves.js owns it
// and redraws.
import { get, query } from './api.js';
import { jobs } from './state.js';
import { serverNow } from './ui.js';
import { Series } from './series.js';

const RAW_STEPS = 40000; // runs up to this length are fetched row by row, longer ones as means of 64 or more
const RECENT = 4000;

// What is set and not measured is drawn as it is.
const smoothing = (name, window) => (name === 'lr' ? 1 : window);

export class Run {
  constructor(job, names, window, changed) {
    this.first = job;
    this.names = names;
    this.window = window;
    this.changed = changed;
    this.base = new Map();
    this.detail = null; // {from, to, end, series}: complete up to `end`, grows up to `to`
    this.anew = 0; // counts what makes answers that are on their way outdated
    this.recent = []; // [{cols, row, t}] of the stream, to bridge a load
    this.rewound = false;
    this.coarse = true; // until the fine load has arrived
    for (const n of names) this.base.set(n, new Series(smoothing(n, window)));
  }

  // As the page knows it now: its step decides how finely it is fetched.
  get job() {
    return jobs.get(this.first.id) ?? this.first;
  }

  close() {
    clearTimeout(this.timer);
    this.closed = true;
  }

  url(range) {
    // An encoder's few metrics all at once: before its first row the server knows none of their names.
    const names = this.job.kind === 'encoder' ? null : this.names.join(',');
    return `/v1/jobs/${this.job.id}/metrics?${query({ names, ...range })}`;
  }

  setWindow(window) {
    this.window = window;
    for (const [n, s] of this.base) s.setWindow(smoothing(n, window));
    this.detail = null;
  }

  // A coarse picture at once, then the fine one.
  async load() {
    const steps = this.job.step || this.job.steps_total || 0;
    if (steps > 4000) await this.fetchInto({ max_points: 1000 });
    const fine = steps <= RAW_STEPS ? 0 : Math.min(RAW_STEPS, Math.floor(steps / 64) + 2);
    if (!this.closed) await this.fetchInto({ max_points: fine });
    this.coarse = false;
    if (!this.closed) this.changed(true);
  }

  async fetchInto(range) {
    const data = await get(this.url(range));
    if (this.closed) return;
    this.rewound = false;
    this.detail = null;
    this.anew++;
    for (const s of this.base.values()) s.clear();
    for (const one of data.series) this.base.get(one.name)?.load(data.columns, one.rows);
    for (const r of this.recent) this.append(r.cols, r.row, r.t);
    this.changed();
  }

  reload(delay = 400) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load().catch((e) => { if (e.status !== 404 && !this.closed) this.reload(3000); }), delay);
  }

  get lastStep() {
    let last = -1;
    for (const s of this.base.values()) last = Math.max(last, s.last);
    return last;
  }

  // One `metrics` event.
  take(d) {
    const now = serverNow(), every = this.job.config?.metrics?.every ?? 1;
    const before = this.lastTime ?? now - 0.1;
    d.rows.forEach((row, i) => {
      const t = before + ((now - before) * (i + 1)) / d.rows.length;
      this.recent.push({ cols: d.cols, row, t });
      const last = this.lastStep;
      if (this.rewound && row[0] <= last) {
        this.goBack(row[0]);
        this.recent = this.recent.slice(-1);
      } else if (last >= 0 && row[0] > last + every) {
        this.reload(); // rows are missing: fetch them from the store
      }
      this.rewound = false;
      this.append(d.cols, row, t);
    });
    this.lastTime = now;
    if (this.recent.length > RECENT) this.recent.splice(0, this.recent.length - RECENT / 2);
  }

  // The job starts, for the first time or again: the next row may be of an earlier step, and is of now.
  starts() {
    this.rewound = true;
    this.lastTime = undefined;
  }

  goBack(step) {
    const d = this.detail;
    for (const s of [...this.base.values(), ...(d?.series.values() ?? [])]) s.truncate(step);
    if (d) d.end = Math.min(d.end, step - 1);
    this.anew++;
  }

  append(cols, row, t) {
    const d = this.detail, grows = d && row[0] <= d.to && d.end >= this.lastStep; // no step lies between
    for (let i = 1; i < cols.length; i++)
      for (const s of [this.base.get(cols[i]), grows && d.series.get(cols[i])])
        if (s && row[0] > s.last) s.pushValue(row[0], t, row[i]);
    if (grows) d.end = Math.max(d.end, row[0]);
  }

  // The series to draw for steps a..b.
  series(name, a, b) {
    const d = this.detail, base = this.base.get(name);
    if (d && d.from <= a && d.end >= Math.min(b, base.last)) return d.series.get(name) ?? base;
    return base;
  }

  // Fetches a finer piece when the base is too coarse for a..b. Returns whether anything was fetched.
  async refine(a, b) {
    let width = 1;
    for (const s of this.base.values()) width = Math.max(width, s.width);
    const span = b - a;
    if (width <= 1 || span <= 0) return false;
    const d = this.detail;
    if (d && d.from <= a && d.end >= Math.min(b, this.lastStep)) return false;
    const from = Math.max(0, Math.floor(a - span / 2)), to = Math.ceil(b + span / 2);
    const steps = to - from;
    const points = steps <= RAW_STEPS ? 0 : Math.floor(steps / 64) + 2;
    if (points && width <= 64) return false;
    const warm = Math.max(0, Math.floor(from - 5 * this.window)); // so that the EMA has settled
    const asked = (this.asked = (this.asked ?? 0) + 1), { anew } = this;
    const data = await get(this.url({ from: warm, to, max_points: points }));
    if (asked !== this.asked || this.closed) return false;
    if (anew !== this.anew) return this.refine(a, b);
    const series = new Map();
    for (const one of data.series) {
      const s = new Series(smoothing(one.name, this.window), 2 * RAW_STEPS);
      s.load(data.columns, one.rows);
      series.set(one.name, s);
    }
    for (const r of this.recent) // the server stores rows a little after they are sent
      for (let i = 1; i < r.cols.length; i++) {
        const s = series.get(r.cols[i]);
        if (s && r.row[0] > s.last && r.row[0] <= to) s.pushValue(r.row[0], r.t, r.row[i]);
      }
    this.detail = { from, to, end: Math.min(to, this.lastStep), series };
    return true;
  }
}
