// Runs side by side on the page Evaluations: what differs between them, their grids, confusion matrices
// and nearest training pictures.
import { at, get, raw } from './api.js';
import { h, fill, num, int, bytes, download, toast } from './ui.js';
import { differs, difference, estimate, finite, runName, label, title, value } from './evalrow.js';

const TABLE = 20; // classes up to which the confusion matrix is a table
const ACROSS = 8, GAP = 2; // pictures per row and pixels between them in nearest.png
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---- confusion ----

function confused(matrix, names, most = 6) {
  const list = matrix.flatMap((row, i) => row.map((n, k) => ({ i, k, n, of: row.reduce((a, b) => a + b, 0) }))).filter((c) => c.i !== c.k && c.n > 0);
  list.sort((a, b) => b.n / b.of - a.n / a.of);
  const name = (k) => names[k] ?? String(k);
  return list.length ? h('p.sub', null, 'Most often: ', list.slice(0, most).map((c) => `${name(c.i)} seen as ${name(c.k)} (${num((100 * c.n) / c.of, 2)} %)`).join(', '), '.') : h('p.sub', null, 'No sample was taken for another class.');
}

function confusion(r) {
  const { confusion: matrix, classes } = r.details, names = classes ?? [], share = matrix.map((row) => { const n = row.reduce((a, b) => a + b, 0); return row.map((v) => (n ? v / n : 0)); });
  const head = h('h4', null, 'Confusion', h('small', null, 'rows: asked class, columns: what the judge saw'));
  if (matrix.length > TABLE) return [head, heat(share, r), confused(matrix, names)];
  const wide = matrix[0]?.length ?? 0;
  const body = matrix.map((row, i) => h('tr', null, h('th', { scope: 'row' }, names[i] ?? i), row.map((n, k) => {
    const td = h('td', { data: { n } }, n ? int(n) : '');
    if (n) td.style.background = `color-mix(in srgb, var(${i === k ? '--accent' : '--bad'}) ${Math.round(6 + 38 * share[i][k])}%, var(--panel))`;
    return td;
  })));
  return [head, h('div.confusion', { tabindex: '0', role: 'region', 'aria-label': `Confusion matrix of ${label(r)}` }, h('table', null,
    h('thead', null, h('tr', null, h('td'), Array.from({ length: wide }, (_, k) => h('th', { scope: 'col' }, names[k] ?? k)))), h('tbody', null, body))), confused(matrix, names)];
}

// Many classes: one square of the picture per pair.
function heat(share, r) {
  const n = share.length, m = share[0]?.length ?? 0, size = Math.max(2, Math.floor(480 / Math.max(n, m)));
  const canvas = h('canvas.heat', { role: 'img', 'aria-label': `Confusion matrix of ${label(r)}, ${n} classes` });
  canvas.width = size * m;
  canvas.height = size * n;
  const ctx = canvas.getContext('2d');
  ctx.fillStyle = css('--sunk');
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  share.forEach((row, i) => row.forEach((v, k) => {
    if (!v) return;
    ctx.globalAlpha = Math.min(1, 0.15 + 0.85 * Math.sqrt(v));
    ctx.fillStyle = css(i === k ? '--accent' : '--bad');
    ctx.fillRect(k * size, i * size, size, size);
  }));
  return canvas;
}

function perClass(r) {
  const list = r.details.per_class, names = r.details.classes ?? [];
  const cols = ['accuracy', 'diversity'].filter((k) => list.some((c) => finite(c[k])));
  if (!cols.length) return null;
  return h('details', null, h('summary', null, 'By class'), h('div.set-counts', { tabindex: '0', role: 'region', 'aria-label': `By class, ${label(r)}` }, h('table', null,
    h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'class'), cols.map((k) => h('th.num', { scope: 'col' }, k)))),
    h('tbody', null, list.map((c) => h('tr', null, h('th', { scope: 'row' }, names[c.class] ?? c.class), cols.map((k) => h('td.num', null, finite(c[k]) ? num(c[k], 3) : '–'))))))));
}

// ---- nearest training pictures ----

// Cuts nearest.png into its pairs, the most alike first.
function neighbours(r, img) {
  const list = r.details.nearest, names = r.details.classes ?? [], stride = (img.naturalWidth + GAP) / Math.min(ACROSS, 2 * list.length);
  const rows = Math.ceil((2 * list.length) / ACROSS), tall = (img.naturalHeight + GAP) / rows;
  const pair = (one, i) => {
    const canvas = h('canvas', { role: 'img', 'aria-label': `Sample ${one.sample} and training picture ${one.train}, distance ${num(one.distance, 3)}` });
    canvas.width = 2 * stride - GAP;
    canvas.height = tall - GAP;
    const k = 2 * i, x = (k % ACROSS) * stride, y = Math.floor(k / ACROSS) * tall;
    canvas.getContext('2d').drawImage(img, x, y, canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
    return { far: one.distance, el: h('figure', { data: { sample: one.sample } }, canvas, h('figcaption', null, num(one.distance, 3), h('span.sub', null, ` no. ${int(one.train)}${one.class === null || one.class === undefined ? '' : `, ${names[one.class] ?? one.class}`}`))) };
  };
  return list.map(pair).sort((a, b) => a.far - b.far).map((p) => p.el);
}

// ---- one run ----

const urls = new Map(); // pictures of the runs that are shown, by address
function picture(url) {
  if (!urls.has(url)) urls.set(url, raw(url).then((res) => res.blob()).then((b) => URL.createObjectURL(b)));
  urls.get(url).catch(() => urls.delete(url));
  return urls.get(url);
}

const wanted = (r, name) => r.artifacts?.find((a) => a.name === name);

async function save(a, r) {
  try { download(await (await raw(a.url)).blob(), `driftd-eval-${r.id}-${a.name}`); } catch (e) { toast(e.message, true); }
}

function facts(r) {
  const s = r.settings ?? {}, judge = s.judge_name ?? s.judge, took = r.details?.seconds;
  const list = [['data', `${s.data ?? '–'}, ${s.split ?? '–'} split`], ['samples', int(s.n)], ['guidance', `α ${num(s.alpha)}`], ['seed', String(s.seed ?? '–')], ['weights', s.weights ?? '–'],
    ['judge', judge ? `${judge}${finite(s.judge_accuracy) ? `, ${num(100 * s.judge_accuracy, 4)} % on real images` : ''}${s.judge_own_encoder ? ', the encoder it was trained with' : ''}` : 'none'],
    s.inception_sha256 ? ['Inception', `${s.inception_sha256.slice(0, 8)}, ${s.resize}`] : null,
    took && typeof took === 'object' ? ['time', Object.entries(took).map(([k, v]) => `${k} ${num(v, 2)} s`).join(', ')] : null,
    s.note ? ['note', s.note] : null, ['computed on', s.device ?? '–'], ['version', s.version ?? '–'], r.checkpoint ? ['checkpoint', r.checkpoint] : null].filter(Boolean);
  return h('details', null, h('summary', null, 'How it was measured'), h('dl', null, list.map(([k, v]) => [h('dt', null, k), h('dd', null, v)])));
}

function card(r, letter, close) {
  const grid = h('img.grid-image', { alt: `Samples of ${title(r)}, one row per class`, hidden: true }), near = h('div.pairs', { tabindex: '0', role: 'region', 'aria-label': `Nearest training pictures of ${label(r)}` }), rest = h('div.more');
  const el = h('section.card.eval-run', { 'aria-label': label(r), data: { shown: r.id } },
    h('div.line', null, h('h3', null, runName(r), h('small', null, `${r.folder ? '' : `step ${int(r.step)} · `}α ${num(r.settings?.alpha)} · group ${letter}`)),
      h('button.quiet.icon-button', { type: 'button', 'aria-label': `Hide evaluation ${r.id}`, onclick: close }, '✕')),
    grid, rest);
  const show = (name, f) => { const a = wanted(r, name); if (a) picture(a.url).then(f, (e) => toast(e.message, true)); };
  show('grid.png', (u) => { grid.src = u; grid.hidden = false; });
  const d = r.details ?? {};
  fill(rest, d.confusion?.length ? confusion(r) : null, d.per_class?.length ? perClass(r) : null,
    d.nearest?.length ? [h('h4', null, 'Nearest training pictures', h('small', null, 'sample, then neighbour; the most alike first, by pixels')), near] : null,
    facts(r), r.artifacts?.length ? h('div.line.wrap', null, r.artifacts.map((a) => h('a.button.quiet', { href: at(a.url), title: bytes(a.bytes), onclick: (e) => { e.preventDefault(); save(a, r); } }, a.name))) : null);
  if (d.nearest?.length) show('nearest.png', async (u) => {
    const img = new Image();
    img.src = u;
    if (await img.decode().then(() => true, () => false)) fill(near, neighbours(r, img)); // else let go meanwhile
  });
  return el;
}

// ---- several ----

function compared(rows, defs) {
  const names = [...defs.keys()].filter((m) => rows.some((r) => value(r, m) !== null)), two = rows.length === 2;
  const unlike = rows.find((r) => r.comparable !== rows[0].comparable);
  const diff = (m) => {
    const d = difference(rows[0], rows[1], m);
    if (!d) return '–';
    const sure = d.error > 0 && Math.abs(d.value) > 2 * d.error;
    return `${d.value > 0 ? '+' : ''}${estimate(d.value, d.error)}${sure ? ' *' : ''}`;
  };
  return h('div.card.scroll', { tabindex: '0', role: 'region', 'aria-label': 'Values side by side' },
    unlike ? h('p.error', null, `Not comparable: ${differs(rows[0], unlike)}. The values below were measured under different conditions.`) : null,
    h('table', null, h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'metric'), rows.map((r) => h('th.num', { scope: 'col' }, `${runName(r)}${r.folder ? '' : `, step ${int(r.step)}`}, α ${num(r.settings?.alpha)}`)),
      two && !unlike ? h('th.num', { scope: 'col' }, 'difference') : null)),
    h('tbody', null, names.map((m) => h('tr', null, h('th', { scope: 'row', title: defs.get(m)?.help ?? null }, m.replaceAll('_', ' ')), rows.map((r) => h('td.num', null, estimate(value(r, m), r.errors?.[m]))), two && !unlike ? h('td.num', null, diff(m)) : null)))),
    two && !unlike ? h('p.sub.pad', null, '* more than two standard errors, the runs taken as independent. ', h('code', null, `driftctl compare ${rows[0].id} ${rows[1].id}`), ' pairs them by seed.') : null);
}

// Takes out of a map whatever has another key than these.
function keepOnly(map, keys, gone = () => {}) {
  for (const [k, v] of map) if (!keys.has(k)) { map.delete(k); gone(v); }
}

// host: {defs, letter(key), toggle(id)}
export function sideBySide(box, host) {
  const known = new Map(), cards = new Map();
  let turn = 0;
  const keyOf = (r) => `${r.id} ${r.ended}`;
  async function detail(r) {
    const key = keyOf(r);
    if (!known.has(key)) known.set(key, get(`/v1/evals/${encodeURIComponent(r.id)}`));
    try { return await known.get(key); } catch (e) { known.delete(key); throw e; }
  }
  return async function draw(rows, again) {
    const mine = ++turn;
    if (again) cards.clear();
    box.hidden = !rows.length;
    try {
      const full = await Promise.all(rows.map(detail));
      if (mine !== turn) return;
      for (const r of full) if (!cards.has(r.id)) cards.set(r.id, card(r, host.letter(r.comparable), () => host.toggle(r.id)));
      fill(box, full.length > 1 ? compared(full, host.defs) : null, h('div.eval-runs', { data: { n: full.length } }, full.map((r) => cards.get(r.id))));
      keepOnly(known, new Set(rows.map(keyOf)));
      keepOnly(cards, new Set(full.map((r) => r.id)));
      keepOnly(urls, new Set(full.flatMap((r) => (r.artifacts ?? []).map((a) => a.url))), (u) => u.then((x) => URL.revokeObjectURL(x), () => {}));
    } catch (e) { if (mine === turn) toast(e.message, true); }
  };
}
