// The page Data in a real browser against a real daemon: 200 pictures of two classes, of wild sizes and
// formats, all drawn here, are sent, looked at, trained on and generated. usage:
//   data.mjs DRIFTD CONFIG_DIR NODE_MODULES CMYK_JPEG [SCREENSHOT_DIR]
// Exit 77: chromium or the packages are missing.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';
import assert from 'node:assert/strict';
import { audit as axeFinds, begin, check, Daemon, report, tools, until } from './lib.mjs';

const [driftd, configs, modules, cmyk, shots] = process.argv.slice(2);
assert.ok(cmyk, 'CMYK_JPEG is missing');
const found = tools(modules);
const daemon = new Daemon(driftd, configs);
const api = (path) => daemon.get(path);
const CLASSES = ['kreise', 'balken'], CMYK = 5, EXIF_VALUE = 28;

// ---- pictures ----

let state = 7;
const rnd = (n) => { state = (state * 1103515245 + 12345) % 2147483648; return Math.floor((state / 2147483648) * n); };

function crc(buf) {
  let c = ~0;
  for (const b of buf) { c ^= b; for (let k = 0; k < 8; k++) c = (c >>> 1) ^ (c & 1 ? 0xedb88320 : 0); }
  return ~c >>> 0;
}
function png(w, h, type, bits, row, palette) {
  const chunk = (name, data) => {
    const head = Buffer.alloc(4), body = Buffer.concat([Buffer.from(name, 'latin1'), data]), tail = Buffer.alloc(4);
    head.writeUInt32BE(data.length);
    tail.writeUInt32BE(crc(body));
    return Buffer.concat([head, body, tail]);
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(w, 0);
  head.writeUInt32BE(h, 4);
  head[8] = bits;
  head[9] = type;
  const rows = [];
  for (let y = 0; y < h; y++) rows.push(Buffer.from([0]), row(y));
  return Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), chunk('IHDR', head), palette ? chunk('PLTE', Buffer.from(palette)) : Buffer.alloc(0),
    chunk('IDAT', deflateSync(Buffer.concat(rows))), chunk('IEND', Buffer.alloc(0))]);
}

// A disc or an upright bar: its geometry and colours.
function draw(k) {
  const w = 20 + rnd(120), h = 20 + rnd(120), cx = w / 2 + rnd(7) - 3, cy = h / 2 + rnd(7) - 3, r = Math.min(w, h) * (0.22 + rnd(20) / 100);
  const ink = k === 0 ? [190 + rnd(60), 30, 40] : [20, 60 + rnd(60), 200], ground = [235, 236 + rnd(12), 230];
  return { w, h, cx, cy, r, k, ink, ground, at: (x, y) => (k === 0 ? (x - cx) ** 2 + (y - cy) ** 2 < r * r : Math.abs(x - cx) < r / 2.2) };
}
// By the last part of a name. PNG: palette, grey, 16 bits, transparent ground, 16 bits with a transparent
// ground; JPEG: CMYK, and by the browser plain and turned; WebP: plain and with a transparent ground.
const forms = [
  (d) => png(d.w, d.h, 3, 8, (y) => Buffer.from(Array.from({ length: d.w }, (_, x) => +d.at(x, y))), [...d.ground, ...d.ink]),
  (d) => png(d.w, d.h, 0, 8, (y) => Buffer.from(Array.from({ length: d.w }, (_, x) => (d.at(x, y) ? 60 : 235)))),
  (d) => png(d.w, d.h, 2, 16, (y) => { const b = Buffer.alloc(6 * d.w); for (let x = 0; x < d.w; x++) for (let c = 0; c < 3; c++) b.writeUInt16BE(257 * (d.at(x, y) ? d.ink : d.ground)[c], 6 * x + 2 * c); return b; }),
  (d) => png(d.w, d.h, 6, 8, (y) => Buffer.from(Array.from({ length: d.w }, (_, x) => (d.at(x, y) ? [...d.ink, 255] : [0, 0, 0, 0])).flat())),
  (d) => png(d.w, d.h, 6, 16, (y) => { const b = Buffer.alloc(8 * d.w); for (let x = 0; x < d.w; x++) if (d.at(x, y)) [...d.ink, 255].forEach((v, c) => b.writeUInt16BE(257 * v, 8 * x + 2 * c)); return b; }),
  (d) => execFileSync(cmyk, [d.w, d.h], { input: Buffer.from(Array.from({ length: d.w * d.h }, (_, i) => (d.at(i % d.w, Math.floor(i / d.w)) ? d.ink : d.ground)).flat()) }),
];
const browsers = [{ type: 'image/jpeg' }, { type: 'image/jpeg', turn: 6 }, { type: 'image/jpeg', turn: 8 }, { type: 'image/webp' }, { type: 'image/webp', clear: true }];
// JPEG and WebP, by the browser's own encoder; those that are to be turned lie on their side.
async function encode(page, list) {
  return (await page.evaluate(async (all) => Promise.all(all.map(async ({ d, type, turn, clear }) => {
    const c = document.createElement('canvas');
    c.width = turn ? d.h : d.w;
    c.height = turn ? d.w : d.h;
    const g = c.getContext('2d'), rgb = (v) => `rgb(${v.join(' ')})`;
    if (turn) g.transform(0, 1, 1, 0, 0, 0); // x and y exchanged
    g.fillStyle = rgb(d.ground);
    if (!clear) g.fillRect(0, 0, d.w, d.h);
    g.fillStyle = rgb(d.ink);
    g.beginPath();
    if (d.k === 0) g.arc(d.cx, d.cy, d.r, 0, 7);
    else g.rect(d.cx - d.r / 2.2, 0, d.r / 1.1, d.h);
    g.fill();
    const blob = await new Promise((ok) => { c.toBlob(ok, type, 0.9); });
    return btoa(String.fromCharCode(...new Uint8Array(await blob.arrayBuffer())));
  })), list)).map((s) => Buffer.from(s, 'base64'));
}
// An EXIF orientation put into a JPEG: 6 and 8 turn it by 90 degrees.
function turned(jpeg, by) {
  const exif = Buffer.from('ffe1002245786966000049492a0008000000010012010300010000000300000000000000', 'hex');
  exif.writeUInt16BE(exif.length - 2, 2);
  exif.writeUInt16LE(by, EXIF_VALUE);
  return Buffer.concat([jpeg.subarray(0, 2), exif, jpeg.subarray(2)]);
}
async function pictures(page, folder) {
  const asked = [], names = [];
  for (const c of CLASSES) mkdirSync(join(folder, c), { recursive: true });
  for (let i = 0; i < 200; i++) {
    const k = i % 2, d = draw(k), form = Math.floor(i / 2) % (forms.length + browsers.length), name = join(folder, CLASSES[k], `bild ${i}`);
    if (form < forms.length) writeFileSync(`${name}.${form === CMYK ? 'jpg' : 'png'}`, forms[form](d));
    else { asked.push({ d: { ...d, at: undefined }, ...browsers[form - forms.length] }); names.push(name); }
  }
  const made = await encode(page, asked);
  made.forEach((b, i) => {
    const { type, turn } = asked[i];
    assert.equal(b.subarray(0, 4).toString('latin1'), type === 'image/jpeg' ? '\xff\xd8\xff\xe0' : 'RIFF', type);
    writeFileSync(`${names[i]}.${type === 'image/jpeg' ? 'jpg' : 'webp'}`, turn ? turned(b, turn) : b);
  });
  writeFileSync(join(folder, CLASSES[0], 'kaputt.jpg'), Buffer.from('ffd8ffe000104a464946', 'hex'));
}

// What decoding made of a class: the tiles of the daemon's grid, each as {light, top, left, centre} of its red
// and green, the darkest along its upper and left edge.
const tiles = (cls, n) => page.evaluate(async ([url, count]) => {
  const bitmap = await createImageBitmap(await (await fetch(url)).blob()), size = 64, pitch = 66, cols = 8;
  const c = new OffscreenCanvas(bitmap.width, bitmap.height), g = c.getContext('2d'), edge = (bitmap.width - cols * pitch + 2) / 2;
  g.drawImage(bitmap, 0, 0);
  return Array.from({ length: count }, (_, i) => {
    const x0 = edge + (i % cols) * pitch, y0 = edge + Math.floor(i / cols) * pitch, at = (x, y) => [...g.getImageData(x0 + x, y0 + y, 1, 1).data];
    const along = Array.from({ length: 16 }, (__, k) => 4 * k + 2), darkest = (list) => list.reduce((a, b) => (a[0] + a[1] < b[0] + b[1] ? a : b));
    return { corners: [at(2, 2), at(size - 2, 2), at(2, size - 2), at(size - 2, size - 2)], top: darkest(along.map((k) => at(k, 2))), left: darkest(along.map((k) => at(2, k))), centre: at(size / 2, size / 2) };
  });
}, [`${base}/v1/datasets/formen/samples?class=${cls}&n=${n}`, n]);

// ---- the page ----

const opened = await begin(daemon, found);
const { base, browser, page, faults } = opened;
const scratch = mkdtempSync(join(tmpdir(), 'driftd-pictures-'));

const audit = (name) => axeFinds(page, found, name);
const shot = (name) => (shots ? page.screenshot({ path: join(shots, `${name}.png`), fullPage: true }) : null);
const loaded = () => page.evaluate(() => { const i = document.querySelector('.set-grid img'); return i?.complete ? i.naturalWidth : 0; });
// Files and their names as if they had been dropped.
const dropFiles = (files) => page.evaluate((list) => {
  const t = new DataTransfer();
  for (const [name, text] of list) t.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
  document.querySelector('.drop').dispatchEvent(new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: t }));
}, files.map(([name, b]) => [name, b.toString('base64')]));

let failed = false;
try {
  await check('the page lists the sets of the build', async () => {
    await page.goto(`${base}/#/data`);
    await page.waitForSelector('.set[data-set="digits"]');
    await audit('the page without data sets of one\'s own');
    await page.click('.set[data-set="digits"]');
    await until('a grid of digits', async () => (await loaded()) > 100);
    await pictures(page, join(scratch, 'Formen und Farben'));
  });

  await check('a folder of 200 pictures is sent and decoded', async () => {
    await page.setInputFiles('#data-folder', join(scratch, 'Formen und Farben'));
    assert.equal(await page.locator('.drop .field input').first().inputValue(), 'Formen-und-Farben');
    await page.locator('.drop .field input').nth(0).fill('formen');
    await page.locator('.drop .field input').nth(1).fill('16');
    await shot('data-chosen');
    await page.click('.drop button[type=submit]');
    await until('it is ready', async () => ['ready', 'failed'].includes((await api('/v1/datasets/formen')).state));
    const s = await api('/v1/datasets/formen');
    assert.equal(s.state, 'ready', s.error);
    assert.deepEqual(s.classes.map((c) => c.name), [...CLASSES].sort());
    assert.equal(s.train + s.test, 200);
    assert.equal(s.report.skipped, 1);
    assert.equal(s.channels, 3);
  });

  await check('every format is decoded as it was drawn, turned and on white', async () => {
    const [bars, discs] = [(await api('/v1/datasets/formen')).classes.find((c) => c.name === 'balken').train, (await api('/v1/datasets/formen')).classes.find((c) => c.name === 'kreise').train];
    const light = ([r, g]) => r > 190 && g > 190, inked = ([r, g]) => r < 150 && g < 150;
    for (const [i, t] of (await tiles('balken', bars)).entries()) {
      assert.ok(t.corners.every(light), `bar ${i}: ${JSON.stringify(t)}`);
      assert.ok(inked(t.top) && light(t.left), `bar ${i} stands: ${JSON.stringify(t)}`);
    }
    for (const [i, t] of (await tiles('kreise', discs)).entries())
      assert.ok(t.corners.every(light) && t.centre[1] < 90, `disc ${i}: ${JSON.stringify(t)}`);
  });

  await check('the set shows a grid, counts, and what was skipped and why', async () => {
    await page.waitForSelector('.set[data-set="formen"][aria-expanded="true"]');
    await until('its grid', async () => (await loaded()) > 100);
    assert.match(await page.textContent('.skipped'), /kaputt\.jpg/);
    for (const c of CLASSES) assert.match(await page.textContent('.set-counts'), new RegExp(c));
    await audit('a data set');
    await shot('data-1440-light');
    await page.selectOption('.set-grid select', { label: 'balken' });
    await until('its bars', () => page.evaluate(() => document.querySelector('.set-grid img').alt.includes('balken')));
    await page.setViewportSize({ width: 390, height: 844 });
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'no sideways scrolling on a phone');
    await shot('data-390-light');
    await audit('a data set on a phone');
    await page.setViewportSize({ width: 1440, height: 900 });
  });

  await check('a name that is taken, an archive that is none', async () => {
    await dropFiles([['formen.zip', Buffer.from('no archive')]]);
    await page.waitForFunction(() => document.querySelector('.drop .field input').value === 'formen');
    await page.click('.drop button[type=submit]');
    await page.waitForSelector('.drop .error:not([hidden])');
    assert.match(await page.textContent('.drop .error'), /already a data set/);
    await page.locator('.drop .field input').first().fill('keins');
    await page.click('.drop button[type=submit]');
    await page.waitForSelector('.set[data-set="keins"] .badge[data-state="failed"]');
    await page.waitForSelector('.set-detail .error');
    await shot('data-failed');
    page.once('dialog', (d) => d.accept());
    await page.click('.set-detail button:has-text("Remove")');
    await page.waitForFunction(() => !document.querySelector('.set[data-set="keins"]'));
  });

  await check('the name is that of what was chosen last, unless it was typed; a drop beside the column is taken', async () => {
    const name = page.locator('.drop .field input').first(), picked = (what) => until(what, async () => (await page.textContent('.drop-line .sub')).startsWith(what));
    const choose = async (file) => { await page.setInputFiles('#data-files', { name: file, mimeType: 'application/zip', buffer: Buffer.from('x') }); await picked(file); };
    await page.reload();
    await page.waitForSelector('.set[data-set="formen"]');
    for (const n of ['cats', 'dogs']) {
      await choose(`${n}.zip`);
      assert.equal(await name.inputValue(), n);
    }
    await name.fill('pets');
    await choose('birds.zip');
    assert.equal(await name.inputValue(), 'pets');
    const prevented = await page.evaluate(() => {
      const t = new DataTransfer();
      t.items.add(new File(['x'], 'fish.zip'));
      return ['dragover', 'drop'].map((type) => !document.querySelector('main').dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: t })));
    });
    assert.deepEqual(prevented, [true, true]);
    await picked('fish.zip');
    await page.reload();
  });

  await check('pictures of a class that come late do not take the place of another\'s', async () => {
    const alt = () => page.getAttribute('.set-grid img', 'alt'), one = /\/samples\?.*class=1/;
    let release;
    const held = new Promise((r) => { release = r; });
    await page.goto(`${base}/#/data?set=formen`);
    await until('its grid', async () => (await loaded()) > 100);
    await page.route(one, async (route) => { await held; await route.continue(); });
    await page.selectOption('.set-grid select', { label: 'kreise' });
    await page.selectOption('.set-grid select', { label: 'balken' });
    await until('bars', async () => /balken/.test(await alt()));
    const late = page.waitForResponse(one);
    release();
    await (await late).finished();
    await page.evaluate(() => new Promise((r) => { requestAnimationFrame(() => requestAnimationFrame(r)); }));
    assert.match(await alt(), /balken/);
    await page.unroute(one);
  });

  await check('an upload of somebody else is shown as it grows, and once it stands still', async () => {
    const about = () => page.textContent('.set[data-set="other"] .sub'), json = { 'Content-Type': 'application/json' };
    let sent = 0;
    const part = async () => { sent = (await (await fetch(`${base}/v1/datasets/other/upload?offset=${sent}`, { method: 'PUT', headers: { 'Content-Type': 'application/octet-stream' }, body: new Uint8Array(5000) })).json()).received; };
    const grows = (than) => until(`more than ${than}`, async () => {
      await part();
      const m = /^receiving, ([\d.]+) kB so far$/.exec(await about());
      return m && +m[1] > than && +m[1];
    });
    await fetch(`${base}/v1/datasets`, { method: 'POST', headers: json, body: JSON.stringify({ name: 'other', source: 's' }) });
    await page.waitForSelector('.set[data-set="other"]');
    await grows(await grows(0));
    await page.evaluate(() => { const { now } = performance; performance.now = () => now.call(performance) + 61000; });
    await until('it stands still', async () => /^upload cut off after [\d.]+ .B: drop/.test(await about()));
    await fetch(`${base}/v1/datasets/other`, { method: 'DELETE' });
    await page.waitForFunction(() => !document.querySelector('.set[data-set="other"]'));
    await page.reload(); // with its own clock
    await page.waitForSelector('.set[data-set="formen"]');
    await page.goto(`${base}/#/data`);
  });

  await check('an upload is shown as it goes on, also on the page that is opened later; what ends it is said anywhere', async () => {
    const parts = /\/upload\?/, about = () => page.textContent('.set[data-set="long"] .sub'), waiting = [];
    const part = async () => until('a part', () => waiting.shift());
    const visit = async (name) => { await page.click(`#nav a[data-page="${name}"]`); await page.waitForSelector(name === 'data' ? '.set[data-set="long"]' : '.empty'); };
    await page.route(parts, (route) => { waiting.push(route); });
    await page.setInputFiles('#data-files', { name: 'long.zip', mimeType: 'application/zip', buffer: Buffer.alloc(9 << 20) });
    await page.click('.drop button[type=submit]');
    const first = await part();
    await visit('runs');
    await visit('data');
    await until('nothing yet', async () => /^sending, 0 B of 9.4 MB$/.test(await about()));
    await first.continue();
    await until('the first part', async () => /^sending, 4.2 MB of 9.4 MB$/.test(await about()));
    const second = await part();
    await visit('runs');
    await second.fulfill({ status: 507, json: { title: 'x', status: 507, detail: 'the disk is full' } });
    await until('the reason', async () => (await page.locator('.toast').allTextContents()).some((t) => t === 'long: the disk is full'));
    await page.unroute(parts);
    await visit('data');
    await fetch(`${base}/v1/datasets/long`, { method: 'DELETE' });
    await page.waitForFunction(() => !document.querySelector('.set[data-set="long"]'));
  });

  await check('other files of the same names and sizes do not go on with an upload that was cut off', async () => {
    const grey = (v) => png(8, 8, 0, 8, () => Buffer.alloc(8, v)), parts = /\/upload\?/;
    assert.equal(grey(10).length, grey(20).length);
    const [first, second] = ['eins', 'zwei'].map((dir, i) => [1, 2].map((k) => {
      const file = join(scratch, dir, `${k}.png`);
      mkdirSync(join(scratch, dir), { recursive: true });
      writeFileSync(file, grey(10 + 10 * i));
      utimesSync(file, 1e9 + i, 1e9 + i);
      return file;
    }));
    const add = async (files) => {
      await page.setInputFiles('#data-files', files);
      await page.locator('.drop .field input').first().fill('twins');
      await page.click('.drop button[type=submit]');
    };
    const says = (what) => until(what, async () => (await page.textContent('.drop .error')).includes(what));
    await page.route(parts, (route) => route.fulfill({ status: 500, contentType: 'application/problem+json', body: '{"title": "x", "status": 500, "detail": "cut off for a test"}' }));
    await add(first);
    await says('cut off for a test');
    await page.unroute(parts);
    await add(second);
    await says('already a data set twins');
    assert.equal((await api('/v1/datasets/twins')).received, 0);
    await add(first);
    await until('it went on', async () => (await api('/v1/datasets/twins')).state === 'ready');
    await fetch(`${base}/v1/datasets/twins`, { method: 'DELETE' });
    await page.waitForFunction(() => !document.querySelector('.set[data-set="twins"]'));
  });

  await check('train on it from the page, and generate', async () => {
    await page.click('.set[data-set="formen"]');
    await page.waitForSelector('.set-actions input');
    await page.locator('.set-actions input').pressSequentially('e'); // 10e is no number, and not the 10 of an empty field
    await page.click('.set-actions button.primary');
    assert.equal((await api('/v1/jobs')).jobs.length, 0);
    await page.fill('.set-actions input', '0.2');
    await page.click('.set-actions button.primary');
    await page.waitForFunction(() => location.hash.startsWith('#/samples?job='));
    await until('the run has ended', async () => ['completed', 'failed'].includes((await api('/v1/jobs/1')).state), 240000);
    const job = await api('/v1/jobs/1');
    assert.equal(job.state, 'completed', job.error);
    assert.equal(job.config.data.path, 'formen');
    assert.deepEqual(job.class_names, [...CLASSES].sort());
    await page.goto(`${base}/#/play?class=kreise`);
    await page.waitForFunction(() => document.querySelector('.stage img')?.naturalWidth > 0);
    await shot('data-generated');
  });

  await check('nothing broke on the way', async () => assert.deepEqual(faults.list, []));
} catch (e) {
  failed = true;
  await report(e, opened, daemon, shots);
} finally {
  await browser.close();
  await daemon.end();
  rmSync(scratch, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
