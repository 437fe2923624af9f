// The data page: a zip, a folder or pictures become a data set; a grid of what training will see,
// what was skipped and why, and a button that trains on it.
import { get, post, raw } from './api.js';
import { on, remember } from './state.js';
import { h, fill, text, toast, say, int, bytes, when, serverNow, badge, head, field, debounce } from './ui.js';
import { tar, mark, isArchive, dropped, chosen } from './tar.js';

const PART = 4 << 20, TRIES = 6;
const path = (name) => `/v1/datasets/${encodeURIComponent(name)}`;
const wait = (ms) => new Promise((r) => { setTimeout(r, ms); });
const uploads = new Map(); // by name, while this tab sends them: {sent, size, stop}
const watchers = new Set(); // of uploads, as they outlast the page that began them: f(whether one has ended)
const tell = (ended) => { for (const f of watchers) f(ended); };
const STILL = 60; // seconds without another part until an upload of somebody else counts as cut off

// Sends a Blob from what the server has on; after a lost connection it asks how far it came.
async function send(name, blob, from) {
  const u = { sent: from, size: blob.size, stop: false };
  uploads.set(name, u);
  tell(false);
  try {
    for (let tries = 0; u.sent < blob.size;) {
      if (u.stop) return false;
      try {
        const part = blob.slice(u.sent, Math.min(u.sent + PART, blob.size));
        const r = await raw(`${path(name)}/upload?offset=${u.sent}`, { method: 'PUT', headers: { 'Content-Type': 'application/octet-stream' }, body: part });
        u.sent = (await r.json()).received;
        tries = 0;
      } catch (e) {
        if (u.stop) return false;
        if (++tries === TRIES || (e.status && e.status !== 409 && e.status !== 503)) throw e;
        await wait(200 * 2 ** tries);
        u.sent = (await get(path(name)).catch(() => null))?.received ?? u.sent;
      }
      tell(false);
    }
    await post(`${path(name)}/import?bytes=${blob.size}`);
    return true;
  } finally {
    uploads.delete(name);
  }
}

const nameOf = (files) => {
  const first = files[0].name.split('/'), base = files.length > 1 && first.length === 1 ? 'pictures' : first[0];
  return base.replace(/\.(zip|tar|tgz|txz|gz|xz|zst|bz2)$/i, '').replace(/\.tar$/i, '').replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^[.-]+/, '').slice(0, 63) || 'pictures';
};

export function mount(root, params) {
  const off = [], pictures = new Map(); // object URLs by set and class
  let sets = [], open = params.get('set') ?? '', closed = false, files = null, timer = 0, given = ''; // given: the name that the files gave
  const list = h('div.sets'), built = h('div.sets'), detail = h('section.card.set-detail', { hidden: true, 'aria-live': 'off' });

  // ---- what is to be added ----
  const error = h('p.error', { role: 'alert', hidden: true }), picked = h('p.sub', { 'aria-live': 'polite' }, 'A zip or tar, a folder, or pictures. Folders in it are the classes.');
  const archive = h('input.sr', { type: 'file', multiple: true, id: 'data-files', onchange: () => take(chosen(archive.files)) });
  const folder = h('input.sr', { type: 'file', webkitdirectory: '', multiple: true, id: 'data-folder', onchange: () => take(chosen(folder.files)) });
  const name = h('input', { type: 'text', maxlength: '63', autocomplete: 'off', spellcheck: 'false' });
  const size = h('input', { type: 'number', min: '1', max: '1024', step: '1', placeholder: 'automatic', inputmode: 'numeric' });
  const fit = h('select', null, [['crop', 'crop the centre'], ['fit', 'whole picture, padded'], ['resize', 'stretch'], ['pad', 'as it is, padded']].map(([v, t]) => h('option', { value: v }, t)));
  const channels = h('select', null, [['0', 'automatic'], ['3', 'colour'], ['1', 'grey']].map(([v, t]) => h('option', { value: v }, t)));
  const add = h('button.primary', { type: 'submit', disabled: true }, 'Add data set');
  const drop = h('form.card.drop', { 'aria-label': 'Add a data set', onsubmit: create },
    h('div.drop-line', null, h('strong', null, 'Drop pictures here'), picked,
      h('span.choose', null, h('label.button', { for: 'data-files' }, 'Choose files'), archive, h('label.button', { for: 'data-folder' }, 'Choose a folder'), folder)),
    h('div.fields', null, field('Name', name), field('Height and width', size), field('Other shapes', fit), field('Colours', channels)),
    error, h('div.line', null, h('span.spacer'), add));
  fill(root, head('Data', 'Pictures to train on: yours, and those that come with driftd.'), drop, list, detail, h('h2.section', null, 'Built in'), built);

  let turn = 0; // of what is chosen or dropped
  function take(found) {
    turn++;
    files = found.length ? found : null;
    add.disabled = !files;
    error.hidden = true;
    if (!files) { text(picked, 'Nothing usable was chosen.'); return; }
    const total = files.reduce((a, f) => a + f.file.size, 0);
    text(picked, files.length === 1 ? `${files[0].name}, ${bytes(total)}` : `${int(files.length)} files, ${bytes(total)}`);
    if (!name.value || name.value === given) name.value = given = nameOf(files);
    add.focus();
  }
  // Anywhere in the window: beside the page's column the browser would open the file in place of the page.
  const brings = (e) => e.dataTransfer?.types.includes('Files');
  const over = (e) => { if (brings(e)) { e.preventDefault(); drop.dataset.over = 'true'; } };
  const leave = () => { delete drop.dataset.over; };
  const letGo = async (e) => {
    if (!brings(e)) return;
    e.preventDefault();
    leave();
    const mine = ++turn;
    try {
      const found = await dropped(e.dataTransfer);
      if (mine === turn) take(found); // else something was chosen while a large folder was read
    } catch (err) { toast(err.message, true); }
  };
  const drags = [['dragover', over], ['dragleave', leave], ['drop', letGo]];
  for (const [type, f] of drags) addEventListener(type, f);

  async function create(e) {
    e.preventDefault();
    if (!files) return;
    error.hidden = true;
    for (const c of [name, size]) c.removeAttribute('aria-invalid');
    const sending = files, set = name.value.trim(), options = { fit: fit.value, channels: +channels.value };
    if (size.value) options.size = +size.value;
    const blob = sending.length === 1 && isArchive(sending[0].name) ? sending[0].file : tar(sending);
    const called = sending.length === 1 ? [...sending[0].name].slice(0, 60).join('') : `${int(sending.length)} files`; // whole characters
    const source = `${called}, ${int(blob.size)} bytes, ${mark(sending)}`;
    let from = 0;
    add.disabled = true;
    try {
      try {
        await post('/v1/datasets', { name: set, source, options });
      } catch (err) { // the same upload, cut off before
        const had = err.status === 409 ? await get(path(set)).catch(() => null) : null;
        if (had?.state !== 'uploading' || had.source !== source || uploads.has(set)) throw err;
        from = had.received;
      }
      name.value = given = size.value = archive.value = folder.value = '';
      files = null;
      text(picked, 'A zip or tar, a folder, or pictures. Folders in it are the classes.');
      if (!closed) {
        show(set);
        await load();
      }
      await send(set, blob, from);
    } catch (err) {
      if (closed) { toast(`${set}: ${err.message}`, true); return; }
      error.hidden = false;
      text(error, err.message);
      const field = err.errors?.[0]?.field;
      const control = field === 'name' ? name : field === 'options.size' ? size : null;
      control?.setAttribute('aria-invalid', 'true');
      control?.focus();
    } finally {
      add.disabled = !files;
      tell(true);
    }
  }

  // ---- the list ----
  function facts(s) {
    if (s.state === 'uploading' && uploads.has(s.name)) return `sending, ${bytes(uploads.get(s.name).sent)} of ${bytes(uploads.get(s.name).size)}`;
    if (s.state === 'uploading') return arrives(s) ? `receiving, ${bytes(s.received)} so far` : `upload cut off after ${bytes(s.received)}: drop the same files again to go on`;
    if (s.state === 'importing') return s.progress === null ? 'waits for its turn' : `decoding, ${Math.round(100 * (s.progress ?? 0))} %`;
    if (s.state === 'failed') return s.error;
    if (s.state === 'missing') return 'its files are not in the data directory';
    if (s.kind === 'points') return 'points in two dimensions';
    const n = s.train ? `${int(s.train + s.test)} pictures` : s.kind === 'made' ? 'procedurally generated' : 'pictures';
    return [n, s.class_count ? `${int(s.class_count)} ${s.class_count === 1 ? 'class' : 'classes'}` : null, s.size ? `${s.size} × ${s.size}` : null, s.channels ? (s.channels === 1 ? 'grey' : 'colour') : null].filter(Boolean).join(' · ');
  }
  // Uploads of driftctl, Python or another tab.
  const growing = new Map(); // by name: {received, at}; at: when it last grew
  const foreign = (s) => s.state === 'uploading' && !uploads.has(s.name);
  const arrives = (s) => performance.now() / 1000 - (growing.get(s.name)?.at ?? -Infinity) < STILL;
  function watch() {
    for (const name of growing.keys()) if (!sets.some((s) => s.name === name && foreign(s))) growing.delete(name);
    for (const s of sets.filter(foreign)) {
      const had = growing.get(s.name), now = performance.now() / 1000, age = Math.max(0, serverNow() - Date.parse(s.created) / 1000);
      if (had?.received !== s.received) growing.set(s.name, { received: s.received, at: had ? now : now - age }); // one that is new has just begun
    }
  }
  const busy = (s) => s.state === 'importing' || uploads.has(s.name);
  const fraction = (s) => { const u = uploads.get(s.name); return u ? u.sent / Math.max(1, u.size) : s.progress ?? 0; };
  const rows = new Map();
  function row(s) {
    if (!rows.has(s.name)) {
      const title = h('span.set-name'), about = h('span.sub'), state = h('span.badge'), bar = h('progress', { max: '1', value: '0' });
      const b = h('button.set', { type: 'button', data: { set: s.name }, onclick: () => show(open === s.name ? '' : s.name) }, h('span', null, title, about), state, bar);
      rows.set(s.name, { b, title, about, state, bar });
    }
    const r = rows.get(s.name);
    text(r.title, s.name);
    text(r.about, facts(s));
    text(r.state, s.own ? s.state : s.state === 'ready' ? 'built in' : s.state);
    r.state.dataset.state = s.state === 'ready' ? 'completed' : s.state === 'failed' ? 'failed' : busy(s) ? 'running' : 'queued';
    r.bar.hidden = !busy(s);
    r.bar.value = fraction(s);
    r.bar.setAttribute('aria-label', `Progress of ${s.name}`);
    r.b.setAttribute('aria-expanded', String(open === s.name));
    r.b.disabled = s.state === 'missing';
    return r.b;
  }
  function paint() {
    if (closed) return;
    for (const [box, own] of [[list, true], [built, false]]) {
      const order = sets.filter((s) => s.own === own).map(row), now = [...box.children];
      if (order.length !== now.length || order.some((b, i) => b !== now[i])) fill(box, order);
    }
    list.hidden = !list.children.length;
    // Below what it belongs to.
    const after = sets.find((s) => s.name === open)?.own === false ? built : list;
    if (after.nextSibling !== detail) after.after(detail);
  }
  function poll() {
    clearTimeout(timer);
    const soon = sets.some((s) => s.state === 'importing' || (foreign(s) && arrives(s)));
    if (!closed && (soon || sets.some(foreign))) timer = setTimeout(load, soon ? 700 : 3000);
  }
  async function load() {
    try { sets = (await get('/v1/datasets')).datasets; } catch (e) { if (!closed) toast(e.message, true); return; }
    if (closed) return;
    watch();
    paint();
    const s = sets.find((x) => x.name === open);
    if (open && s && detail.dataset.shown !== `${s.name} ${s.state}`) show(open);
    poll();
  }

  // ---- one set ----
  async function picture(s, cls) {
    const key = `${s.name} ${s.fingerprint ?? ''} ${cls}`;
    if (!pictures.has(key)) pictures.set(key, raw(`${path(s.name)}/samples?n=${cls === '' ? 8 : 32}${cls === '' ? '' : `&class=${cls}`}`).then((r) => r.blob()).then((b) => URL.createObjectURL(b)).catch((e) => {
      pictures.delete(key); // the next look asks again
      throw e;
    }));
    return pictures.get(key);
  }
  function grid(s) {
    const img = h('img.grid-image', { alt: `Pictures of ${s.name}, one row per class` }), names = (s.classes ?? []).slice(0, 16);
    const pick = h('select', { onchange: () => look(pick.value) }, h('option', { value: '' }, 'every class'), (s.classes ?? []).map((c, i) => h('option', { value: String(i) }, c.name)));
    const labels = h('ol.row-names', { 'aria-hidden': 'true' }, names.map((c) => h('li', null, c.name)));
    const look = async (cls) => {
      try {
        const u = await picture(s, cls);
        if (pick.value !== cls) return; // another was chosen meanwhile
        img.src = u;
        img.alt = cls === '' ? `Pictures of ${s.name}, one row per class` : `Pictures of ${s.name}, class ${s.classes[+cls].name}`;
        labels.hidden = cls !== '';
      } catch (e) { if (!closed && pick.value === cls) toast(e.message, true); }
    };
    look('');
    return h('div.set-grid', null, s.classes?.length > 1 ? field('Show', pick) : null, h('div.rows', null, labels, img));
  }
  function report(s) {
    const r = s.report ?? {}, reasons = r.reasons ?? [];
    return [
      (r.notes ?? []).map((n) => h('p.sub', null, n)),
      r.skipped ? h('details.skipped', { open: r.skipped <= 5 }, h('summary', null, `${int(r.skipped)} ${r.skipped === 1 ? 'file was' : 'files were'} skipped`),
        h('div.reasons', { tabindex: '0', role: 'region', 'aria-label': 'Skipped files' }, h('ul', null, reasons.map((x) => h('li', null, h('b', null, x.file), ` ${x.reason}`)), r.skipped > reasons.length ? h('li', null, `and ${int(r.skipped - reasons.length)} more`) : null))) : null];
  }
  function counts(s) {
    const c = s.classes ?? [];
    if (!c.length) return null;
    return h('div.scroll.set-counts', { tabindex: '0', role: 'region', 'aria-label': 'Pictures per class' }, h('table', null,
      h('thead', null, h('tr', null, ['class', 'to train on', 'to test with'].map((t) => h('th', { scope: 'col' }, t)))),
      h('tbody', null, c.slice(0, 200).map((k) => h('tr', null, h('th', { scope: 'row' }, k.name), h('td', null, int(k.train)), h('td', null, int(k.test)))))));
  }
  async function train(s, minutes, button) {
    if (!minutes.reportValidity()) return; // what cannot be read is not the default
    button.disabled = true;
    try {
      const { config } = await get(`${path(s.name)}/recipe?minutes=${encodeURIComponent(minutes.value || 10)}`);
      const job = await post('/v1/jobs', { config, name: s.name });
      remember(job);
      toast(`Run ${job.id} is ${job.state}.`);
      location.hash = `#/samples?job=${job.id}`;
    } catch (e) { toast(e.message, true); button.disabled = false; }
  }
  async function remove(s) {
    if (!confirm(`Remove the data set ${s.name} and its files?`)) return;
    const u = uploads.get(s.name);
    if (u) u.stop = true;
    try {
      await raw(path(s.name), { method: 'DELETE' });
      toast(`The data set ${s.name} is removed.`);
      show('');
      load();
    } catch (e) { toast(e.message, true); }
  }
  function actions(s) {
    const minutes = h('input', { type: 'number', min: '0.1', max: '100000', step: 'any', value: '10', inputmode: 'decimal' });
    const go = h('button.primary', { type: 'button', onclick: () => train(s, minutes, go) }, `Train on ${s.name}`);
    const again = s.state === 'failed' && h('button', { type: 'button', onclick: async () => { try { await post(`${path(s.name)}/import`); load(); } catch (e) { toast(e.message, true); } } }, 'Try again');
    return h('div.set-actions', null, s.state === 'ready' && s.own ? [field('Minutes', minutes, 'from 30 on, an encoder is trained first'), go] : null, again || null, h('span.spacer'),
      s.own ? h('button.danger', { type: 'button', onclick: () => remove(s) }, 'Remove') : null);
  }
  async function show(which) {
    open = which;
    detail.hidden = !which;
    detail.dataset.shown = '';
    history.replaceState(null, '', `#/data${which ? `?set=${encodeURIComponent(which)}` : ''}`);
    paint();
    if (!which) { fill(detail); return; }
    let s;
    try { s = await get(path(which)); } catch (e) { if (e.status === 404) { show(''); return; } toast(e.message, true); return; }
    if (closed || open !== which) return;
    detail.dataset.shown = `${s.name} ${s.state}`;
    detail.setAttribute('aria-label', `Data set ${s.name}`);
    const r = s.report ?? {};
    const about = s.state === 'ready' && r.largest ? [`From ${r.smallest.join(' × ')} to ${r.largest.join(' × ')} pixels, now ${s.size} × ${s.size}; ${bytes(s.bytes)}; added `, when(s.created), `${s.source ? `; ${s.source}` : ''}.`] : s.source;
    fill(detail, h('div.line', null, h('h2', null, s.name), s.own ? badge(s.state) : null), h('p.sub', null, about),
      s.error ? h('p.error', null, s.error) : null, report(s),
      s.state === 'ready' && s.kind !== 'points' ? grid(s) : null, s.state === 'ready' ? counts(s) : null, actions(s));
  }

  const soon = debounce(load, 250);
  off.push(soon.cancel, on('dataset', (d) => {
    soon();
    if (d.state === 'ready' || d.state === 'failed') say(`Data set ${d.name} is ${d.state}.`, true);
    if (d.state === 'failed') toast(`${d.name}: ${d.error}`, true);
  }));
  off.push(on('refetch', load));
  const watcher = (ended) => { if (ended) load(); else paint(); };
  watchers.add(watcher);
  off.push(() => watchers.delete(watcher));
  load().then(() => {
    if (open) show(open);
  });
  return () => {
    closed = true;
    clearTimeout(timer);
    for (const [type, f] of drags) removeEventListener(type, f);
    off.forEach((f) => f());
    for (const p of pictures.values()) p.then((u) => URL.revokeObjectURL(u), () => {});
  };
}
