// Small helpers of every page: elements, numbers as text, toasts, icons. Depends on no page.
import { at, blobOf, raw, secured } from './api.js';

// h('button.quiet', {type: 'button', onclick: f}, 'text', child, ...). Functions,
// booleans and `value` are set as properties, anything else as attributes; null children are skipped.
export function h(spec, props, ...children) {
  const [tag, ...classes] = spec.split('.');
  const el = document.createElement(tag || 'div');
  if (classes.length) el.className = classes.join(' ');
  for (const [k, v] of Object.entries(props ?? {})) {
    if (v === null || v === undefined) continue;
    if (k === 'data') Object.assign(el.dataset, v);
    else if (typeof v === 'function' || typeof v === 'boolean' || k === 'value' || k === 'className') el[k] = v;
    else el.setAttribute(k, v);
  }
  add(el, children);
  return el;
}

function add(el, children) {
  for (const c of children.flat(Infinity)) if (c !== null && c !== undefined && c !== false) el.append(c);
}

export function fill(el, ...children) {
  el.replaceChildren();
  add(el, children);
  return el;
}

// Draws a part of the page again. The element that has the focus keeps it, or the new one in its place
// gets it: the one with the same data, else with the same name.
export function redraw(box, draw) {
  const had = box.contains(document.activeElement) ? document.activeElement : null;
  const name = (el) => [el.tagName, ...(Object.keys(el.dataset).length ? Object.values(el.dataset) : [el.getAttribute('aria-label') ?? el.textContent, el.getAttribute('href')])].join();
  draw();
  if (!had || document.activeElement === had) return;
  (had.isConnected ? had : [...box.querySelectorAll('a, button, input, select')].find((el) => name(el) === name(had)))?.focus({ preventScroll: true });
}

// Sets text only when it changes, to keep selections and not to disturb screen readers.
export function text(el, s) {
  if (el.textContent !== s) el.textContent = s;
}

const SVG = 'http://www.w3.org/2000/svg';
const paths = {
  runs: 'M4 6h16M4 12h16M4 18h10',
  curves: 'M4 5v15h16M7 15c3-8 5 2 8-4 1-2 2-4 5-5',
  data: 'M4 6c0-3 16-3 16 0v12c0 3-16 3-16 0zM4 6c0 3 16 3 16 0M4 12c0 3 16 3 16 0',
  samples: 'M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z',
  play: 'M6 8h12M6 16h12M10 5.5v5M15 13.5v5',
  evals: 'M5 20V11M10 20V5M15 20v-7M20 20V8',
  status: 'M3 12h4l3-7 4 14 3-7h4',
  checkpoints: 'M5 4h11l4 4v12H5zM8 4v5h7V4M8 20v-6h9v6',
  more: 'M5 12h.01M12 12h.01M19 12h.01',
};

// The same for SVG: attributes alone, null ones skipped.
export function svg(tag, props, ...children) {
  const el = document.createElementNS(SVG, tag);
  for (const [k, v] of Object.entries(props)) if (v !== null && v !== undefined) el.setAttribute(k, v);
  add(el, children);
  return el;
}

export function icon(name) {
  return svg('svg', { viewBox: '0 0 24 24', 'aria-hidden': 'true', class: 'icon' }, svg('path', { d: paths[name] }));
}

// ---- numbers and times ----

export function num(v, digits = 4) {
  if (v === null || v === undefined || Number.isNaN(v)) return '–';
  if (v === 0) return '0';
  const a = Math.abs(v);
  if (Number.isInteger(v) && a < 1e15) return int(v);
  if (a < 1e-3 || a >= 1e6) return v.toExponential(digits - 2).replace('e+', 'e').replace('-', '−');
  return (a >= 10 ** digits ? String(Math.round(v)) : v.toPrecision(digits)).replace('-', '−');
}

export function int(v) {
  return v === null || v === undefined ? '–' : Math.round(v).toLocaleString('en-US').replaceAll(',', '\u202f');
}

export function duration(s) {
  if (s === null || s === undefined || !Number.isFinite(s)) return '–';
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 90) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  const m = Math.round(s / 60);
  if (m < 90) return `${m} min`;
  const hours = Math.floor(m / 60);
  return hours < 48 ? `${hours} h ${String(m % 60).padStart(2, '0')} min` : `${Math.round(hours / 24)} d`;
}

export function bytes(n) {
  if (n === null || n === undefined || n < 0) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let i = 0;
  while (n >= 1000 && i < 4) { n /= 1000; i++; }
  return `${i && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

// The server's clock in seconds. The event stream says how far the browser's is behind it.
export const clock = { behind: 0 };
export const serverNow = () => Date.now() / 1000 + clock.behind;

export function ago(iso) {
  if (!iso) return '–';
  const s = serverNow() - Date.parse(iso) / 1000;
  return s < 5 ? 'just now' : `${duration(s)} ago`;
}

// Shows a time in a <time> as words, with the local date and time as its title.
export function stamp(el, iso, words = ago(iso)) {
  text(el, words);
  if (el.dateTime === (iso ?? '')) return;
  el.dateTime = iso ?? '';
  el.title = iso ? new Date(iso).toLocaleString([], { dateStyle: 'medium', timeStyle: 'medium' }) : '';
}

// "5 min ago", kept up to date by main.js.
export function when(iso) {
  const el = h(iso ? 'time.ago' : 'time');
  stamp(el, iso);
  return el;
}

export const clamp = (v, lo, hi) => Math.min(hi, Math.max(lo, v));

// ---- feedback ----

export function toast(message, bad = false) {
  const box = document.getElementById('toasts');
  const t = h('p.toast', { data: { bad: String(bad) } }, message);
  box.append(t);
  setTimeout(() => t.remove(), bad ? 9000 : 4000);
  while (box.children.length > 4) box.firstChild.remove();
}

let saidAt = 0;
// A summary for screen readers, at most once in a minute unless it is urgent.
export function say(message, urgent = false) {
  const now = performance.now();
  if (!urgent && now - saidAt < 60000) return;
  saidAt = now;
  text(document.getElementById('live'), message);
}

export function download(blob, name) {
  const a = h('a', { href: URL.createObjectURL(blob), download: name });
  document.body.append(a);
  a.click();
  a.remove();
  setTimeout(() => URL.revokeObjectURL(a.href), 10000);
}

// A link to a file of the API. With a token the page fetches it.
export function fileLink(spec, path, name, props, ...children) {
  return h(spec, { ...props, href: at(path), download: name, onclick: async (e) => {
    if (!secured()) return;
    e.preventDefault();
    try { download(await blobOf(await raw(path)), name); } catch (err) { toast(err.message, true); }
  } }, ...children);
}

export function badge(state) {
  return h('span.badge', { data: { state } }, state);
}

export function empty(title, ...body) {
  return h('div.empty', null, h('h2', null, title), ...body.map((b) => (typeof b === 'string' ? h('p', null, b) : b)));
}

export function head(title, sub, ...actions) {
  return h('div.page-head', null, h('div', null, h('h1', { tabindex: '-1' }, title), sub ? h('p.sub', null, sub) : null),
    actions.length ? h('div.actions', null, ...actions) : null);
}

export function field(label, control, hint) {
  return h('label.field', null, h('span', null, label), control, hint ? h('small', null, hint) : null);
}

// Calls save() when a changed field is left, and then done(its result). Until that has succeeded the field
// is `unsaved`, and what the server has must not take its place; one that failed is marked, and tried again
// when it is left.
const saving = new WeakMap(); // fields and the latest save of each
export const unsaved = (el) => saving.has(el);
export function saves(el, save, done) {
  async function go() {
    const mine = {}, latest = () => saving.get(el) === mine;
    let result;
    saving.set(el, mine);
    el.removeAttribute('aria-invalid');
    try {
      result = await save();
    } catch (e) {
      if (latest()) el.setAttribute('aria-invalid', 'true');
      toast(e.message, true);
      return;
    }
    if (latest()) saving.delete(el);
    done(result);
  }
  el.addEventListener('change', go);
  el.addEventListener('blur', () => { if (el.hasAttribute('aria-invalid')) go(); });
}

// Shows the page below its heading when its first content is there, or after a while, so that
// nothing jumps while it loads.
export async function settle(root, first) {
  root.classList.add('filling');
  await Promise.race([first.catch((e) => toast(e.message, true)), new Promise((r) => setTimeout(r, 1500))]);
  requestAnimationFrame(() => requestAnimationFrame(() => root.classList.remove('filling')));
}

// Keeps a page's view in the address, unless the address has already moved on to another page.
export function keepInAddress(page, search) {
  if (location.hash.split('?')[0] === `#/${page}`) history.replaceState(null, '', `#/${page}?${search}`);
}

// Calls f at most once per frame.
export function perFrame(f) {
  let id = 0;
  const run = () => { id = 0; f(); };
  const call = () => { id ||= requestAnimationFrame(run); };
  call.cancel = () => { cancelAnimationFrame(id); id = 0; };
  return call;
}

export function debounce(f, ms) {
  let id = 0;
  const call = (...a) => { clearTimeout(id); id = setTimeout(() => f(...a), ms); };
  call.cancel = () => clearTimeout(id);
  return call;
}
