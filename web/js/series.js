// One metric of one run in bounded memory. Points are buckets {x: last step, t, n, min, max, mean,
// nonfinite} in time order; a raw row is a bucket of one. The smoothed value is a debiased EMA over
// these points, computed before thinning for the screen. When the buffer is full, the finest
// neighbours are merged (the later smoothed value stays), so a live series never outgrows it.

const CAP = 49152;
const columns = [['x', Float64Array], ['t', Float64Array], ['cnt', Uint32Array], ['bad', Uint32Array],
  ['min', Float32Array], ['max', Float32Array], ['mean', Float32Array], ['ema', Float32Array]];

export class Series {
  constructor(window = 0, cap = CAP) {
    this.cap = cap;
    this.room = 0;
    this.n = 0;
    this.grow(Math.min(cap, 1024));
    this.window = window;
    this.clear();
  }

  grow(room) {
    for (const [name, type] of columns) {
      const bigger = new type(room);
      if (this.n) bigger.set(this[name].subarray(0, this.n));
      this[name] = bigger;
    }
    this.room = room;
  }

  clear() {
    this.n = 0;
    this.totalBad = 0;
    this.width = 1; // rows in the widest bucket
    this.restart();
  }

  restart() {
    this.m = 0;
    this.w = 0;
    this.lastX = null;
  }

  get last() { return this.n ? this.x[this.n - 1] : -1; }

  // Weights decay by steps, not by points: a bucket of 64 steps counts as 64 of them.
  smooth(i) {
    const v = this.mean[i];
    const steps = this.lastX === null ? 1 : Math.max(1, this.x[i] - this.lastX);
    if (Number.isNaN(v)) { this.ema[i] = NaN; return; }
    if (this.window <= 1) { this.ema[i] = v; return; }
    const keep = Math.exp(-steps / this.window);
    this.m = keep * this.m + (1 - keep) * v;
    this.w = keep * this.w + (1 - keep);
    this.ema[i] = this.m / this.w;
    this.lastX = this.x[i];
  }

  setWindow(window) {
    if (window === this.window) return;
    this.window = window;
    this.restart();
    for (let i = 0; i < this.n; i++) this.smooth(i);
  }

  push(x, t, n, min, max, mean, bad) {
    if (this.n === this.room) {
      if (this.room < this.cap) this.grow(Math.min(this.cap, 2 * this.room));
      else this.compact();
    }
    const i = this.n++;
    this.x[i] = x; this.t[i] = t; this.cnt[i] = n; this.bad[i] = bad;
    this.min[i] = min; this.max[i] = max; this.mean[i] = mean;
    this.totalBad += bad;
    if (n + bad > this.width) this.width = n + bad;
    this.smooth(i);
  }

  pushValue(x, t, v) {
    const ok = v !== null && Number.isFinite(v);
    const f = ok ? v : NaN;
    this.push(x, t, ok ? 1 : 0, f, f, f, ok ? 0 : 1);
  }

  // Rows of /v1/jobs/ID/metrics, raw or buckets. Returns how many were taken.
  load(names, rows) {
    const raw = names.length === 3;
    for (const r of rows) {
      if (raw) this.pushValue(r[0], r[1], r[2]);
      else this.push(r[1], r[2], r[3], r[4] ?? NaN, r[5] ?? NaN, r[6] ?? NaN, r[8]);
    }
    return rows.length;
  }

  // Drops points at or after a step: a resumed job goes back to its checkpoint.
  truncate(step) {
    while (this.n && this.x[this.n - 1] >= step) {
      this.n--;
      this.totalBad -= this.bad[this.n];
    }
    this.restart();
    for (let i = 0; i < this.n; i++) this.smooth(i);
  }

  // Makes room by merging the finest buckets first, so that many single rows do not displace older
  // history.
  compact() {
    let finest = Infinity;
    for (let i = 0; i < this.n; i++) finest = Math.min(finest, this.cnt[i] + this.bad[i]);
    for (let limit = 2 * Math.max(1, finest); this.n > 0.75 * this.cap; limit *= 2) this.merge(limit);
  }

  // Merges neighbours as long as the two hold at most `limit` rows.
  merge(limit) {
    let o = 0;
    for (let i = 1; i < this.n; i++) {
      const n = this.cnt[o] + this.cnt[i], rows = n + this.bad[o] + this.bad[i];
      if (rows > limit) {
        o++;
        for (const [name] of columns) this[name][o] = this[name][i];
        continue;
      }
      this.mean[o] = this.cnt[o] === 0 ? this.mean[i] : this.cnt[i] === 0 ? this.mean[o]
        : (this.mean[o] * this.cnt[o] + this.mean[i] * this.cnt[i]) / n;
      this.min[o] = lower(this.min[o], this.min[i]);
      this.max[o] = upper(this.max[o], this.max[i]);
      if (!Number.isNaN(this.ema[i])) this.ema[o] = this.ema[i];
      this.bad[o] += this.bad[i];
      this.cnt[o] = n;
      this.x[o] = this.x[i];
      this.t[o] = this.t[i];
      if (rows > this.width) this.width = rows;
    }
    this.n = Math.min(this.n, o + 1);
  }

  // First index whose x (or t) is >= v.
  find(v, axis = this.x) {
    let lo = 0, hi = this.n;
    while (lo < hi) {
      const mid = (lo + hi) >> 1;
      if (axis[mid] < v) lo = mid + 1; else hi = mid;
    }
    return lo;
  }
}

const lower = (a, b) => (Number.isNaN(a) ? b : Number.isNaN(b) ? a : Math.min(a, b));
const upper = (a, b) => (Number.isNaN(a) ? b : Number.isNaN(b) ? a : Math.max(a, b));

// Thins several series into shared columns for drawing, one per pixel: per series the smoothed value
// at the column's end, the lowest and the highest raw value, and the count of non-finite rows.
// axes[k] maps series k to its x values; x0..x1 is the visible range.
export function thin(list, axes, offsets, x0, x1, columns) {
  const xs = [], out = list.map(() => ({ line: [], lo: [], hi: [], bad: [] }));
  const at = list.map((s, k) => Math.max(0, s.find(x0 + offsets[k], axes[k]) - 1));
  const step = (x1 - x0) / columns || 1;
  for (let c = -1; c <= columns; c++) {
    const end = c === columns ? Infinity : x0 + (c + 1) * step;
    let x = NaN;
    const row = new Array(list.length).fill(null);
    for (let k = 0; k < list.length; k++) {
      const s = list[k], axis = axes[k];
      let lo = Infinity, hi = -Infinity, line = NaN, bad = 0, i = at[k];
      const { min, max, ema, bad: bads } = s, till = end + offsets[k], from = i;
      const stop = c === columns ? Math.min(s.n, i + 1) : s.n;
      for (; i < stop && axis[i] < till; i++) { // the hot loop of panning; NaN fails every comparison
        if (min[i] < lo) lo = min[i];
        if (max[i] > hi) hi = max[i];
        if (ema[i] === ema[i]) line = ema[i];
        bad += bads[i];
      }
      if (i > from) {
        const mine = axis[i - 1] - offsets[k];
        x = Number.isNaN(x) ? mine : Math.max(x, mine);
        row[k] = [line, lo === Infinity ? NaN : lo, hi === -Infinity ? NaN : hi, bad];
      }
      at[k] = i;
    }
    if (Number.isNaN(x)) continue;
    xs.push(x);
    row.forEach((r, k) => {
      const o = out[k];
      o.line.push(r && !Number.isNaN(r[0]) ? r[0] : null);
      o.lo.push(r && !Number.isNaN(r[1]) ? r[1] : null);
      o.hi.push(r && !Number.isNaN(r[2]) ? r[2] : null);
      o.bad.push(r ? r[3] : 0);
    });
  }
  return { xs, out };
}
