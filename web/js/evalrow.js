// What the page Evaluations knows about rows of /v1/evals, without elements: numbers as text, groups of
// rows that may be compared, curves. Depends on no page.
import { num, int } from './ui.js';

export const done = (r) => r.state === 'done';
export const finite = (v) => typeof v === 'number' && Number.isFinite(v);
export const value = (r, name) => (finite(r.results?.[name]) ? r.results[name] : null);

// "12.31 ± 0.20": as many digits as the error leaves.
export function estimate(v, error) {
  if (!finite(v)) return '–';
  if (!finite(error) || error <= 0) return num(v);
  const places = 1 - Math.floor(Math.log10(error));
  if (places > 6) return `${num(v)} ± ${num(error, 2)}`;
  return `${v.toFixed(Math.max(0, Math.min(6, places))).replace('-', '−')} ± ${error.toFixed(Math.max(0, Math.min(6, places)))}`;
}

// How often the floor (real images against real ones) a value is; null where that says nothing.
export function overFloor(r, name) {
  const v = value(r, name), f = r.floors?.[name];
  return v !== null && finite(f) && f > 0 ? v / f : null;
}

export function ratio(x) {
  return x >= 100 ? int(x) : num(x, x < 1 ? 2 : 3);
}

export const runName = (r) => r.job_name || r.folder || r.name || `evaluation ${r.id}`;
export const title = (r) => (r.kind === 'folder' || r.folder ? `folder ${r.folder}` : `${runName(r)}, step ${int(r.step)}`);
export const label = (r) => `${title(r)}, evaluation ${r.id}`; // no two runs share it

// ---- what may be compared ----

const percent = (v) => `${num(100 * v, 3)} %`;
const short = (s) => String(s ?? 'none').slice(0, 8);
// Settings that a group has in common, as [word, value].
const conditions = [
  ['data', (s) => s.data], ['data set files', (s) => short(s.fingerprint)], ['split', (s) => s.split], ['n', (s) => int(s.n)],
  ['judge', (s) => s.judge_name ?? s.judge ?? 'none'], ['judge weights', (s) => short(s.judge_sha256)],
  ['Inception', (s) => (s.inception_sha256 ? short(s.inception_sha256) : 'none')], ['resize', (s) => s.resize ?? 'none'],
];

export function describe(r) {
  const s = r.settings ?? {};
  const judge = s.judge_name ?? s.judge;
  return [`${s.data ?? 'data'} ${s.split ?? ''}`.trim(), `n ${int(s.n)}`, judge ? `judge ${judge}${finite(s.judge_accuracy) ? ` (${percent(s.judge_accuracy)})` : ''}` : 'no judge',
    s.inception_sha256 ? `Inception, ${s.resize}` : ''].filter(Boolean).join(', ');
}

// Words for what differs between two rows that may not be compared.
export function differs(a, b) {
  const words = conditions.filter(([, f]) => f(a.settings ?? {}) !== f(b.settings ?? {})).map(([w]) => w);
  return words.length ? `other ${words.join(', ')}` : 'measured in another way';
}

// Groups by `comparable`, that of the newest row first: {key, letter, of (its newest row), rows}.
export function groups(rows) {
  const found = new Map();
  for (const r of [...rows].sort((a, b) => Number(b.id) - Number(a.id))) {
    if (!r.comparable) continue;
    if (!found.has(r.comparable)) found.set(r.comparable, { key: r.comparable, of: r, rows: [] });
    found.get(r.comparable).rows.push(r);
  }
  return [...found.values()].map((g, i) => ({ ...g, letter: i < 26 ? String.fromCharCode(65 + i) : `A${i - 25}` }));
}

// ---- curves ----

// Runs that differ in the step (or the scale) alone. Two that may not be compared never share a series.
export function curves(rows, names, x) {
  const found = new Map();
  for (const r of rows) {
    const s = r.settings ?? {}, at = x === 'step' ? r.step : s.alpha;
    if (!done(r) || !r.comparable || !finite(at) || names.some((n) => value(r, n) === null)) continue;
    const key = JSON.stringify([r.comparable, r.job ?? runName(r), s.weights, s.seed, s.n, x === 'step' ? s.alpha : r.step]);
    if (!found.has(key)) found.set(key, { key, of: r, points: new Map() });
    const points = found.get(key).points, had = points.get(at);
    if (!had || Number(had.id) < Number(r.id)) points.set(at, r); // of two equal ones the newer
  }
  for (const c of found.values()) c.points = new Map([...c.points].sort((a, b) => a[0] - b[0]));
  return [...found.values()].sort((a, b) => Number(b.of.id) - Number(a.of.id));
}

// A curve's name says only what differs among those drawn.
export function curveName(c, all, x) {
  const s = c.of.settings ?? {}, varies = (f) => new Set(all.map(f)).size > 1;
  return [runName(c.of), x === 'step' ? (varies((k) => k.of.settings?.alpha) || all.length === 1 ? `α ${num(s.alpha)}` : '') : `step ${int(c.of.step)}`,
    varies((k) => k.of.settings?.weights) ? s.weights : '', varies((k) => k.of.settings?.seed) ? `seed ${s.seed}` : '',
    varies((k) => k.of.settings?.n) ? `n ${int(s.n)}` : ''].filter(Boolean).join(' · ');
}

// -1: a is worse than b, 1: better, 0: equal. better: lower, higher or one.
export function better(how, a, b) {
  const score = (v) => (how === 'higher' ? v : how === 'one' ? -Math.abs(v - 1) : -v);
  return Math.sign(score(a) - score(b));
}

export function best(c, name, how) {
  return [...c.points].reduce((a, b) => (better(how, value(b[1], name), value(a[1], name)) > 0 ? b : a));
}

// The difference b - a with its standard error, where both are known and the two may be compared.
export function difference(a, b, name) {
  const x = value(a, name), y = value(b, name);
  if (x === null || y === null || !a.comparable || a.comparable !== b.comparable) return null;
  const ea = a.errors?.[name], eb = b.errors?.[name];
  return { value: y - x, error: finite(ea) && finite(eb) ? Math.hypot(ea, eb) : null };
}
