// The dashboard in a real browser against a real daemon on a small toy. usage:
//   browser.mjs DRIFTD CONFIG_DIR NODE_MODULES [SCREENSHOT_DIR]
// Exit 77: chromium or the packages are missing.
import { readFileSync } from 'node:fs';
import { createServer, request } from 'node:http';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { audit as axeFinds, begin, check, Daemon, report, sleep, tools, until } from './lib.mjs';

const [driftd, configs, modules, shots] = process.argv.slice(2);
const SMALL = { 'train.steps': 1000000, 'train.generated': 16, 'train.positives': 16, 'model.dim': 16, 'model.depth': 1, 'data.count': 500, 'samples.every': 50, 'metrics.every': 1, 'checkpoint.every': 200 };
const found = tools(modules);
const daemon = new Daemon(driftd, configs);
const api = (path) => daemon.get(path), post = (path, body) => daemon.post(path, body);

const opened = await begin(daemon, found);
const { base, browser, page, faults } = opened;

const go = async (hash) => { await page.goto(`${base}/#/about-blank`); await page.goto(`${base}/${hash}`); };
const active = () => page.evaluate(() => { const a = document.activeElement; return a ? `${a.tagName} ${a.id} ${a.name ?? ''} ${a.textContent.slice(0, 40)} ${a.getAttribute('aria-label') ?? ''}` : ''; });
async function tabTo(selector, max = 120) {
  for (let i = 0; i < max; i++) {
    if (await page.evaluate((s) => document.activeElement?.matches(s), selector)) return;
    await page.keyboard.press('Tab');
  }
  assert.fail(`Tab never reached ${selector}; it is at ${await active()}`);
}
// Focus by Tab, then a key, as without a mouse.
async function press(selector, ...keys) {
  await tabTo(selector);
  for (const k of keys) await page.keyboard.press(k);
}
const panel = (name) => `[data-panel="${name}"]`;
// Whether the page holds exactly the server's steps, up to the last it has.
async function sameAsServer() {
  const mine = await steps(), rows = (await api('/v1/jobs/1/metrics?names=loss&max_points=0')).series[0].rows.map((r) => r[0]);
  const last = Math.min(mine.at(-1) ?? 0, rows.at(-1) ?? 0), cut = (list) => list.filter((x) => x <= last);
  return last > 0 && JSON.stringify(cut(mine)) === JSON.stringify(cut(rows)) && rows.every((x, i) => !i || x === rows[i - 1] + 1);
}
const audit = (name) => axeFinds(page, found, name);
const pixels = () => page.evaluate(async () => {
  const img = document.querySelector('.stage img');
  await img.decode();
  const c = document.createElement('canvas');
  c.width = img.naturalWidth; c.height = img.naturalHeight;
  const ctx = c.getContext('2d');
  ctx.drawImage(img, 0, 0);
  let hash = 0;
  for (const v of ctx.getImageData(0, 0, c.width, c.height).data) hash = (hash * 31 + v) | 0;
  return `${c.width}x${c.height} ${hash}`;
});
const steps = () => page.evaluate(() => { const m = document.querySelector('.page-curves')?.models; const r = m && [...m.values()][0]; const s = r?.base.get('loss'); return s ? Array.from(s.x.subarray(0, s.n)) : []; });

let failed = false;
try {
  await check('start a run from the form, by the keyboard alone', async () => {
    await page.goto(base);
    await page.waitForSelector('.empty button.primary');
    await page.locator('h1').focus();
    await tabTo('.page-head button.primary');
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog[open] #f-train-steps');
    await tabTo('dialog select');
    for (let i = 0; i < 100 && !(await page.evaluate(() => document.activeElement.value === 'toy-swiss-roll')); i++)
      await page.keyboard.press('ArrowDown');
    await until('the recipe is chosen', () => page.evaluate(() => document.querySelector('.about').textContent.includes('spiral')));
    await page.locator('details summary').focus();
    await page.keyboard.press('Enter');
    for (const [path, value] of Object.entries(SMALL)) {
      const at = `#f-${path.replaceAll('.', '-')}`;
      await page.locator(at).focus();
      await page.keyboard.press('Control+A');
      await page.keyboard.type(String(value));
    }
    await audit('the form');
    await tabTo('dialog button[type=submit]');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.run[data-run="1"]');
    const job = await api('/v1/jobs/1');
    assert.equal(job.config.train.generated, 16);
    await page.waitForSelector('.run[data-state="running"]');
  });

  await check('curves move, the last point is fresh', async () => {
    await page.keyboard.press('Escape');
    await tabTo('#nav a[data-page="curves"]');
    await page.keyboard.press('Enter');
    await until('points', async () => (await steps()).length > 5);
    const a = (await steps()).at(-1);
    await until('more points', async () => (await steps()).at(-1) > a);
    await page.locator('[data-panel="loss"] .plot').focus();
    await page.keyboard.press('ArrowLeft');
    assert.match(await page.locator('[data-panel="loss"] .plot').getAttribute('aria-label'), /at step/);
  });

  await check('the last point is at most half a second old', async () => {
    await until('a median of half a second', async () => { // several rounds, for busy machines
      const seen = [];
      while (seen.length < 21) {
        seen.push({ step: (await steps()).at(-1), at: Date.now() / 1000 });
        await sleep(40);
      }
      const rows = (await api(`/v1/jobs/1/metrics?names=loss&max_points=0&from=${seen[0].step}`)).series[0].rows, time = new Map(rows.map((r) => [r[0], r[1]]));
      const age = seen.map((s) => s.at - time.get(s.step)).sort((a, b) => a - b);
      console.log(`# age of the last point: median ${age[10].toFixed(2)} s, most ${age.at(-1).toFixed(2)} s`);
      return age[10] <= 0.5;
    });
  });

  await check('the daemon restarts in the middle of the stream: no gap, no duplicate', async () => {
    for (const signal of ['SIGTERM', 'SIGKILL']) { // after a kill the run goes back to its checkpoint
      faults.quiet = true;
      const before = (await steps()).at(-1);
      await daemon.down(signal);
      await until('the page notices', () => page.evaluate(() => document.getElementById('stream').dataset.state === 'lost'));
      await daemon.up();
      await until('the stream is back', () => page.evaluate(() => document.getElementById('stream').dataset.state === 'live'));
      await until('the run goes on', async () => (await api('/v1/jobs/1')).state === 'running');
      await until('steps go on', async () => (await steps()).at(-1) > before + 20);
      faults.quiet = false;
      await until(`the page holds the server's steps after ${signal}`, sameAsServer);
    }
  });

  await check('the live scatter shows data, samples and the drift of each', async () => {
    await press('#nav a[data-page="samples"]', 'Enter');
    await until('a field', () => page.evaluate(() => +document.querySelector('.toy')?.dataset.step > 0));
    const first = await page.evaluate(() => +document.querySelector('.toy').dataset.step);
    await until('it moves', () => page.evaluate((s) => +document.querySelector('.toy').dataset.step > s, first));
    const field = await api('/v1/jobs/1/field');
    assert.equal(field.samples.length, 16);
    assert.equal(field.data.length, 16);
    assert.ok(field.samples.some(([, , vx, vy]) => Math.hypot(vx, vy) > 0));
    assert.ok(field.data.every(([x, y]) => Math.hypot(x, y) < 1.2), 'the reals lie on the spiral');
  });

  await check('the row of a running job shows its values before the stream sends any', async () => {
    const silent = await page.context().newPage();
    await silent.route('**/v1/events', () => {}); // never answered
    await silent.goto(`${base}/#/runs`);
    const stat = (label) => silent.locator('.run[data-run="1"] .stat', { hasText: label }).locator('b').textContent();
    await silent.waitForSelector('.run[data-run="1"][data-state="running"]');
    await silent.getByRole('button', { name: 'Details of run 1' }).click();
    for (const label of ['loss', 'drift norm'])
      await until(label, async () => Number.isFinite(parseFloat(await stat(label))));
    await silent.close();
  });

  await check('pause, resume and stop it from the list', async () => {
    await press('#nav a[data-page="runs"]', 'Enter');
    await page.waitForSelector('.run[data-run="1"][data-state="running"]');
    await press('.run[data-run="1"] button[aria-label="Pause run 1"]', 'Enter');
    await page.waitForSelector('.run[data-run="1"][data-state="paused"]');
    await press('.run[data-run="1"] button[aria-label="Resume run 1"]', 'Enter');
    await page.waitForSelector('.run[data-run="1"][data-state="running"]');
    await press('.run[data-run="1"] button[aria-label="Stop run 1"]', 'Enter');
    await page.waitForSelector('.run[data-run="1"][data-state="stopped"]');
    assert.equal((await api('/v1/jobs/1')).state, 'stopped');
  });

  await check('what was stopped is drawn whole; the arrows of its last step stay', async () => {
    await press('.run[data-run="1"] a[href="#/curves?runs=1"]', 'Enter');
    await until('the curves are there', async () => (await steps()).length > 5);
    const rows = (await api('/v1/jobs/1/metrics?names=loss&max_points=0')).series[0].rows.map((r) => r[0]);
    await until('all rows', async () => (await steps()).length === rows.length);
    assert.deepEqual(await steps(), rows);
    await go('#/samples?job=1');
    const field = await api('/v1/jobs/1/field'), mean = field.samples.reduce((a, v) => a + Math.hypot(v[2], v[3]), 0) / field.samples.length;
    assert.equal(field.step, rows.at(-1));
    await until('the same drift', () => page.evaluate((m) => Math.abs(document.querySelector('.toy')?.dataset.drift - m) < 1e-9, mean));
    await go('#/curves?runs=1');
    await until('the curves are back', async () => (await steps()).length === rows.length);
  });

  await check('CSV equals the server\'s; PNG is one', async () => {
    const [got] = await Promise.all([page.waitForEvent('download'), press('button[aria-label="Loss: CSV"]', 'Enter')]);
    const text = readFileSync(await got.path(), 'utf8');
    assert.equal(text, await (await fetch(`${base}/v1/jobs/1/metrics?names=loss&format=csv`)).text());
    const [png] = await Promise.all([page.waitForEvent('download'), press('button[aria-label="Loss: PNG"]', 'Enter')]);
    const bytes = readFileSync(await png.path());
    assert.equal(bytes.subarray(1, 4).toString(), 'PNG');
    assert.ok(bytes.readUInt32BE(16) > 400 && bytes.length > 4000, `${bytes.readUInt32BE(16)} pixels wide, ${bytes.length} bytes`);
  });

  await check('zoom by dragging and by keys; the view is in the address', async () => {
    const box = await page.locator('[data-panel="loss"] .u-over').boundingBox();
    await page.mouse.move(box.x + box.width * 0.3, box.y + 40);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.6, box.y + 60, { steps: 4 });
    await page.mouse.up();
    await until('from and to', () => /from=.*to=/.test(page.url()));
    const view = page.url();
    await page.reload();
    await page.waitForSelector('[data-panel="loss"] canvas');
    await until('the same view', () => page.locator('button', { hasText: 'Show all' }).isVisible());
    assert.equal(page.url(), view);
    await page.locator('[data-panel="loss"] .plot').focus();
    await page.keyboard.press('0');
    await until('everything', () => !/from=/.test(page.url()));
    await page.keyboard.press('+');
    await until('zoomed by a key', () => /from=/.test(page.url()));
    const narrow = page.url();
    await page.keyboard.press('Shift+ArrowLeft');
    await until('panned by a key', () => /from=/.test(page.url()) && page.url() !== narrow);
    await page.keyboard.press('0');
    await until('everything', () => !/from=/.test(page.url()));
    await audit('curves');
    await press('button[aria-label="Loss: table"]', 'Enter');
    assert.ok(await page.locator('[data-panel="loss"] tbody tr').count() > 3);
    await page.keyboard.press('Enter');
  });

  await check('axes: clock, time since the start, logarithms; the cursor is one for all plots', async () => {
    for (const [axis, shows] of [['wall', /\d\d:\d\d:\d\d/], ['relative', /\d (ms|s|min|h)/], ['step', /^[\d\s]+ – [\d\s]+$/]]) {
      await page.locator('select[aria-label="Horizontal axis"]').selectOption(axis);
      await until(`the range by ${axis}`, async () => shows.test(await page.locator('output.range').textContent()));
    }
    for (const key of ['log', 'logx']) {
      const box = page.getByRole('checkbox', { name: key === 'log' ? 'log values' : 'log steps' });
      await box.check();
      await until(`${key} in the address`, () => page.url().includes(`${key}=1`));
      await box.uncheck();
    }
    await page.locator(`${panel('loss')} .plot`).focus();
    const at = async (name) => /at step ([\d\s]+)/.exec(await page.locator(`${panel(name)} .plot`).getAttribute('aria-label'))?.[1];
    await until('the other plots follow', async () => { // again if a rebuilt plot has dropped the cursor
      await page.keyboard.press('ArrowLeft');
      const step = await at('loss');
      return step && step === await at('grad_norm');
    });
  });

  await check('with logarithmic steps the view pans and zooms by factors, and ends at step 1', async () => {
    const box = page.getByRole('checkbox', { name: 'log steps' }), range = page.locator('output.range');
    const click = (name) => page.getByRole('button', { name, exact: true }).click();
    const shows = (what, pattern) => until(what, async () => pattern.test(await range.textContent()));
    const view = () => { const q = new URLSearchParams(page.url().split('?')[1]); return [+q.get('from'), +q.get('to')]; };
    await box.check();
    for (const name of ['Zoom out', 'Zoom out', 'Pan left', 'Pan left']) await click(name);
    await shows('the first step', /^1 – /);
    await page.locator(`${panel('loss')} .plot`).focus();
    for (const key of ['-', 'Shift+ArrowLeft', '-']) await page.keyboard.press(key);
    await shows('the first step still', /^1 – /);
    await click('Show all');
    await click('Zoom in');
    await until('a part', () => view()[0] > 1);
    const [a, b] = view();
    await click('Pan right');
    await until('another part', () => view()[0] > a);
    const [c, d] = view();
    assert.ok(Math.abs(Math.log(d / c) - Math.log(b / a)) < 1e-6, `${[a, b, c, d]}`);
    await click('Show all');
    await box.uncheck();
    await click('Pan left');
    await shows('before the first step', /^-/);
    await box.check();
    await shows('from the first step', /^1 – /);
    await box.uncheck();
    await click('Show all');
    await until('everything', () => !/from=/.test(page.url()));
  });

  await check('a zoomed long run is fetched again, finer; non-finite steps are marked', async () => {
    const asked = [];
    await page.route('**/metrics?*', async (route) => {
      const q = new URL(route.request().url()).searchParams, from = +(q.get('from') ?? 0), to = Math.min(1e6, +(q.get('to') ?? 1e6));
      asked.push(`${from}-${to}`);
      const points = +q.get('max_points') || Math.min(to - from, 60000), width = Math.max(1, Math.ceil((to - from) / points));
      const rows = [];
      for (let s = from; s < to; s += width) rows.push([s, s + width - 1, 1.7e9 + s / 100, width - 1, 0.5, 1.5, 1 + Math.sin(s / 9e4) / 4, 1, s % (width * 500) ? 0 : 1]);
      await route.fulfill({ json: { job: '1', columns: ['step', 'step_last', 'time', 'n', 'min', 'max', 'mean', 'last', 'nonfinite'], series: q.get('names').split(',').map((name) => ({ name, rows })) } });
    });
    await page.route('**/v1/jobs/1', async (route) => { const res = await route.fetch(); await route.fulfill({ json: { ...(await res.json()), step: 1000000 } }); });
    await page.route('**/v1/jobs?*', async (route) => { const res = await route.fetch(), d = await res.json(); for (const j of d.jobs) j.step = 1000000; await route.fulfill({ json: d }); });
    await go('#/curves?runs=1&w=100');
    await page.reload();
    await until('marks', async () => Number(await page.locator('[data-panel="loss"]').getAttribute('data-marks')) > 0);
    await until('both loads', () => asked.length >= 2);
    assert.match(await page.locator('output.smooth').textContent(), /100 steps, over means of \d+/);
    const before = asked.length;
    await page.evaluate(() => { const e = new KeyboardEvent('keydown', { key: '+', bubbles: true, cancelable: true }); for (let i = 0; i < 9; i++) document.querySelector('[data-panel="loss"] .plot').dispatchEvent(e); });
    await until('a finer piece', () => asked.length > before);
    const fps = await page.evaluate(async () => {
      const plot = document.querySelector('[data-panel="loss"] .plot'), times = [];
      for (let i = 0; i < 40; i++) {
        const t = performance.now();
        plot.dispatchEvent(new KeyboardEvent('keydown', { key: i % 2 ? 'ArrowLeft' : 'ArrowRight', shiftKey: true, bubbles: true, cancelable: true }));
        await new Promise(requestAnimationFrame);
        times.push(performance.now() - t);
      }
      return 1000 / times.sort((a, b) => a - b)[20];
    });
    console.log(`# panning a million steps: ${fps.toFixed(0)} frames per second (median)`);
    await page.unrouteAll({ behavior: 'ignoreErrors' });
  });

  await check('an hour of live tail at 100 steps per second stays in bounded memory', async () => {
    const r = await page.evaluate(async () => {
      const { Series } = await import('/app/series.js');
      const s = new Series(50);
      let room = 0;
      for (let i = 1; i <= 360000; i++) { s.pushValue(i, i / 100, i % 1000 === 500 ? NaN : 1); room = Math.max(room, s.room); }
      let bytes = 0;
      for (const v of Object.values(s)) if (ArrayBuffer.isView(v)) bytes += v.byteLength;
      const { thin } = await import('/app/series.js');
      const t = thin([s], [s.x], [0], 1, 360000, 800);
      const old = new Series(50); // a long history in wide buckets, then a tail of single rows
      for (let i = 1; i <= 15000; i++) old.push(64 * i, i, 64, 0, 2, 1, 0);
      for (let i = 1; i <= 360000; i++) old.pushValue(960000 + i, i, 1);
      return { kept: old.find(960001), widest: old.width, total: old.cnt.subarray(0, old.n).reduce((a, b) => a + b), n: s.n, room, bytes, bad: s.totalBad, marked: t.out[0].bad.reduce((a, b) => a + b, 0), last: s.last, ema: s.ema[s.n - 1] };
    });
    assert.ok(r.n <= 49152 && r.room <= 49152 && r.bytes < 2.1e6, JSON.stringify(r));
    assert.equal(r.kept, 15000, 'the tail leaves the history alone');
    assert.equal(r.widest, 64);
    assert.equal(r.total, 960000 + 360000);
    assert.equal(r.last, 360000);
    assert.equal(r.bad, 360);
    assert.equal(r.marked, 360);
    assert.ok(Math.abs(r.ema - 1) < 1e-6);
  });

  await check('smoothing is over all rows, then thinned', async () => {
    const d = await page.evaluate(async () => {
      const { Series, thin } = await import('/app/series.js');
      const s = new Series(10);
      let m = 0, w = 0, want = 0;
      for (let i = 1; i <= 5000; i++) {
        const v = Math.sin(i) + i / 1000, keep = Math.exp(-1 / 10);
        m = keep * m + (1 - keep) * v; w = keep * w + (1 - keep); want = m / w;
        s.pushValue(i, i, v);
      }
      const t = thin([s], [s.x], [0], 1, 5000, 50);
      return Math.abs(t.out[0].line.at(-1) - want);
    });
    assert.ok(d < 1e-5, String(d));
  });

  await check('an image from the playground; guidance changes it; a seed brings it back', async () => {
    await go('#/play?seed=5&cols=4&rows=4&cfg=1');
    await until('an image', () => page.evaluate(() => document.querySelector('.stage img')?.naturalWidth > 0));
    const first = await pixels();
    const slider = page.getByRole('slider', { name: 'Guidance scale' }), box = await slider.boundingBox();
    const src = await page.locator('.stage img').getAttribute('src'), asked = [];
    page.on('request', (r) => { const u = new URL(r.url()); if (u.pathname.endsWith('/generate')) asked.push(u.searchParams.get('cfg')); });
    // A slow drag draws pictures on its way.
    const atRest = async () => Number(asked.at(-1)) === Number(await slider.inputValue()) && await page.evaluate(() => document.querySelector('.page-play').dataset.busy === 'false');
    await page.mouse.move(box.x + box.width * 0.2, box.y + box.height / 2);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.9, box.y + box.height / 2, { steps: 5 });
    await page.mouse.up();
    await until('another image', async () => (await atRest()) && (await page.locator('.stage img').getAttribute('src')) !== src && (await pixels()) !== first);
    await slider.focus();
    const [saved] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Save PNG' }).click()]);
    const scale = await slider.inputValue();
    const shown = await pixels();
    await page.getByRole('button', { name: 'Dice' }).click();
    await until('the dice', async () => (await pixels()) !== shown);
    await page.setInputFiles('input[type=file]', await saved.path());
    await until('restored', async () => (await pixels()) === shown);
    assert.equal(await page.getByRole('spinbutton', { name: 'Seed' }).inputValue(), '5');
    assert.ok(Math.abs(await page.getByRole('slider', { name: 'Guidance scale' }).inputValue() - scale) < 1e-3);
    await press('button[title="Another seed"]', 'Enter');
    await until('the dice again', async () => (await pixels()) !== shown);
    const drop = await page.evaluateHandle((b64) => {
      const t = new DataTransfer();
      t.items.add(new File([Uint8Array.from(atob(b64), (c) => c.charCodeAt(0))], 'a.png', { type: 'image/png' }));
      return t;
    }, readFileSync(await saved.path()).toString('base64'));
    await page.dispatchEvent('.stage', 'drop', { dataTransfer: drop });
    await until('restored by a drop', async () => (await pixels()) === shown);
    // What cannot be read as a number leaves the seed.
    const seed = page.getByRole('spinbutton', { name: 'Seed' }), drawn = asked.length;
    await seed.fill('7');
    await until('seed 7', async () => /seed 7\b/.test(await page.locator('figcaption').textContent()));
    await seed.press('End');
    await seed.pressSequentially('e');
    await until('it is asked for', () => asked.length > drawn + 1);
    await until('the picture', () => page.evaluate(() => document.querySelector('.page-play').dataset.busy === 'false'));
    assert.match(await page.locator('figcaption').textContent(), /seed 7\b/);
  });

  await check('many checkpoints at once, as after a time away, are asked about once', async () => {
    let asked = 0;
    const note = (r) => { if (r.url().endsWith('/v1/checkpoints?limit=100')) asked++; };
    page.on('request', note);
    await page.evaluate(() => import('/app/state.js').then((m) => { for (let i = 0; i < 50; i++) m.emit('checkpoint', {}); }));
    await until('it is asked', () => asked);
    assert.ok(asked <= 5, `${asked} requests`);
    page.off('request', note);
  });

  await check('keys move the guidance; curl draws the same picture; a sweep has one row per scale; the time is split', async () => {
    const slider = page.getByRole('slider', { name: 'Guidance scale' }), before = await pixels();
    await press('input[aria-label="Guidance scale"]', 'End');
    await until('another picture', async () => (await pixels()) !== before);
    assert.equal(await slider.inputValue(), '5');
    assert.match(await page.locator('.split-text').textContent(), /queue .* ms · compute .* ms · .* batch of \d+/);
    await press('.play-controls .wrap button', 'Enter');
    const curl = await until('curl in the clipboard', () => page.evaluate(() => navigator.clipboard.readText()).then((t) => t.startsWith('curl') && t));
    const url = /'([^']+)'/.exec(curl)[1];
    assert.match(url, /[?&]checkpoint=\d+/, 'an id, not a word');
    const [saved] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Save PNG' }).click()]);
    const again = Buffer.from(await (await fetch(url, { method: 'POST' })).arrayBuffer());
    assert.ok(again.equals(readFileSync(await saved.path())), 'the bytes of the picture shown');
    const one = await pixels();
    await page.getByRole('checkbox', { name: /guidance sweep/ }).focus();
    await page.keyboard.press('Space');
    await until('the sweep', async () => (await pixels()) !== one && /rows: guidance 1, 1.25/.test(await page.locator('figcaption').textContent()));
    await page.keyboard.press('Space');
  });

  await check('a dropped picture is made again, byte for byte', async () => {
    const job = await post('/v1/jobs', { config: 'digits', name: 'tiny', overrides: { 'train.steps': 2, 'train.minutes': 0, 'train.classes': 2, 'train.generated': 4, 'train.positives': 4, 'model.dim': 16, 'model.depth': 1, 'model.heads': 2, 'model.null_class': true, 'model.label_dropout': 0.1, 'data.count': 200, 'samples.every': 0 } });
    await until('the small job', async () => (await api(`/v1/jobs/${job.id}`)).state === 'completed');
    const id = (await api(`/v1/checkpoints?job=${job.id}`)).checkpoints[0].id;
    await go(`#/play?checkpoint=${id}&seed=5&cols=3&rows=2&cfg=1`);
    await until('an image', () => page.evaluate(() => document.querySelector('.stage img')?.naturalWidth > 0));
    const bytes = async () => {
      const [got] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Save PNG' }).click()]);
      return readFileSync(await got.path());
    };
    const idle = () => page.evaluate(() => document.querySelector('.page-play').dataset.busy === 'false');
    const drop = async (png) => {
      await page.getByRole('spinbutton', { name: 'Seed' }).fill(String(Math.floor(Math.random() * 1e6)));
      await page.getByRole('button', { name: 'Generate' }).click(); // something else is shown before
      await until('another picture', async () => !(await bytes()).equals(png) && idle());
      const data = await page.evaluateHandle((b64) => {
        const t = new DataTransfer();
        t.items.add(new File([Uint8Array.from(atob(b64), (c) => c.charCodeAt(0))], 'a.png', { type: 'image/png' }));
        return t;
      }, png.toString('base64'));
      await page.dispatchEvent('.stage', 'drop', { dataTransfer: data });
    };
    for (const q of ['class=0-9&n=10&grid=4x3', 'cfg=1,2,3', 'cfg=1,2,3&class=3,1&n=4&grid=5x3&scale=2', 'n=5', 'class=7&cfg=1.3&n=3&guidance=two-pass',
      'cfg=1,1.5,2,2.5,3,3.5,4&n=8&class=3', 'cfg=0.333333,4&n=2', 'n=4&weights=raw', 'n=4&temperature=0.7', 'class=3,5&n=2&seed=4&seed2=9&steps=5&cfg=1.5']) { // that with seven scales is a request of driftctl sweep
      const png = Buffer.from(await (await fetch(`${base}/v1/generate?${q}&checkpoint=${id}`)).arrayBuffer());
      assert.equal(png.subarray(1, 4).toString(), 'PNG', `${q}: ${png.subarray(0, 300)}`);
      await drop(png);
      await until(`the picture of ${q}`, async () => (await bytes()).equals(png));
      const address = page.url(); // the address brings it back as well
      await page.reload();
      assert.equal(page.url(), address);
      await until(`${q} by its address`, async () => (await idle()) && (await bytes()).equals(png));
    }
    await go(`#/play?checkpoint=${id}&seed=5&cols=3&rows=2&cfg=1`);
    await page.getByRole('checkbox', { name: /guidance sweep/ }).check();
    await until('the sweep', async () => /rows: guidance 1, 1.25/.test(await page.locator('figcaption').textContent()) && idle());
    const own = await bytes();
    await drop(own);
    await until('the sweep of the page', async () => (await bytes()).equals(own));
    if (shots) await page.screenshot({ path: join(shots, 'restored-1440.png') });
  });

  await check('a class that another checkpoint does not have becomes random; what fails is said, and made up for', async () => {
    const newest = async (job) => (await api(`/v1/checkpoints?job=${job}`)).checkpoints[0].id, toy = await newest(1), digits = await newest(2);
    const choice = page.locator('.play-controls select').first(), caption = (id) => until(`checkpoint ${id}`, async () => (await page.textContent('figcaption')).startsWith(`checkpoint ${id} `));
    const pressed = () => page.locator('.classes [aria-pressed="true"]').allTextContents(), wrong = page.locator('.stage-box .error');
    for (const cls of ['7', '0-9']) {
      await go(`#/play?checkpoint=${digits}&class=${cls}&seed=5&cols=4&rows=4`);
      await caption(digits);
      await choice.selectOption(toy);
      await caption(toy);
      assert.deepEqual(await pressed(), ['random']);
      assert.equal(await wrong.isVisible(), false);
    }
    faults.quiet = true;
    await page.route('**/v1/served', (route) => route.abort());
    await choice.selectOption(digits);
    await until('the reason', async () => /does not answer/.test(await wrong.textContent()));
    await page.unroute('**/v1/served');
    await page.evaluate(() => import('/app/state.js').then((m) => m.emit('refetch')));
    await caption(digits);
    assert.equal(await wrong.isVisible(), false);
    faults.quiet = false;
  });

  await check('a checkpoint is served by a button, and no longer by another; so is the live run', async () => {
    await go('#/checkpoints');
    const mode = async (m) => (await api('/v1/served')).mode === m;
    const button = page.getByRole('button', { name: /^Serve checkpoint \d+$/ }).first();
    const id = /\d+/.exec(await button.getAttribute('aria-label'))[0];
    await button.click();
    await until('served', async () => (await api('/v1/served')).checkpoint === id && mode('checkpoint'));
    await page.waitForSelector(`tr[data-checkpoint="${id}"] .badge`);
    await audit('checkpoints');
    await go('#/status');
    await until('the page shows it', async () => /promoted/.test(await page.getByRole('region', { name: 'Generation' }).textContent()));
    await go('#/checkpoints');
    await page.getByRole('button', { name: `Serve checkpoint ${id} no longer` }).click();
    await until('automatic again', () => mode('auto'));
    await go('#/status');
    await page.getByRole('button', { name: 'Serve the live run' }).click();
    await until('live', () => mode('live'));
    await page.getByRole('button', { name: 'Serve automatically' }).click();
    await until('automatic', () => mode('auto'));
    await audit('status with buttons');
    await go('#/play?seed=5&cols=2&rows=2&cfg=5');
    await until('a note on a scale that was not trained', async () => /trained with/.test(await page.locator('.note').textContent()));
  });

  await check('the page works below a path of a proxy', async () => {
    const prefix = '/driftd-a';
    const proxy = createServer((req, res) => {
      if (!req.url.startsWith(`${prefix}/`)) { res.writeHead(404).end(); return; }
      const up = request(`${base}${req.url.slice(prefix.length)}`, { method: req.method, headers: { ...req.headers, host: new URL(base).host } }, (r) => { res.writeHead(r.statusCode, r.headers); r.pipe(res); });
      up.on('error', () => res.destroy());
      res.on('close', () => up.destroy());
      req.pipe(up);
    });
    await new Promise((r) => proxy.listen(0, '127.0.0.1', r));
    const outside = `http://127.0.0.1:${proxy.address().port}`, below = await page.context().newPage(), missing = [];
    below.on('response', (r) => { if (r.status() >= 400) missing.push(`${r.status()} ${r.url()}`); });
    await below.goto(`${outside}${prefix}/#/runs`);
    await below.waitForSelector('.run[data-run="1"]');
    await until('the stream is live', () => below.evaluate(() => document.getElementById('stream').dataset.state === 'live'));
    assert.ok(await below.evaluate(() => document.querySelector('.brand img').naturalWidth > 0), 'the icon');
    for (const [hash, ready] of [['#/curves?runs=1', '[data-panel="loss"] canvas'], ['#/samples?job=1', '.grid-image[src]'], ['#/evals', '.empty'], ['#/play?seed=5', '.stage img[src]'], ['#/status', '.cards .card']]) {
      await below.goto(`${outside}${prefix}/${hash}`);
      await below.waitForSelector(ready);
    }
    const links = await below.evaluate(() => [...document.querySelectorAll('main a[href]')].map((a) => a.href));
    assert.ok(links.some((l) => l.endsWith('/metrics')) && links.every((l) => l.startsWith(`${outside}${prefix}/`)), links.join(' '));
    await below.goto(`${outside}${prefix}/#/play?seed=5`);
    await below.waitForSelector('.stage img[src]');
    await below.context().grantPermissions(['clipboard-read', 'clipboard-write'], { origin: outside });
    await below.getByRole('button', { name: 'Copy as curl' }).click();
    await until('curl', () => below.evaluate(() => navigator.clipboard.readText()).then((t) => t.includes(`'${outside}${prefix}/generate?`)));
    assert.deepEqual(missing, []);
    await below.close();
    proxy.closeAllConnections();
    proxy.close();
  });

  await check('more tabs than the browser has connections: the hidden ones let go of theirs', async () => {
    const context = await browser.newContext(), tabs = [];
    await context.addInitScript(() => {
      globalThis.away = false;
      Object.defineProperty(document, 'hidden', { get: () => globalThis.away });
      const later = globalThis.setTimeout;
      globalThis.setTimeout = (f, ms, ...a) => later(f, ms === 30000 ? 0 : ms, ...a); // half a minute passes at once
    });
    const show = (tab, yes) => tab.evaluate((v) => { globalThis.away = !v; document.dispatchEvent(new Event('visibilitychange')); }, yes);
    const stream = (tab, is) => until(`the stream of tab ${tabs.indexOf(tab)} is ${is}`, async () => (await tab.getAttribute('#stream', 'data-state')) === is);
    for (let i = 0; i < 8; i++) {
      for (const tab of tabs.slice(-1)) { await show(tab, false); await stream(tab, 'wait'); }
      tabs.push(await context.newPage());
      await tabs[i].goto(`${base}/#/status`);
      await stream(tabs[i], 'live');
      await tabs[i].waitForSelector('.cards .card');
    }
    await show(tabs[0], true);
    await stream(tabs[0], 'live');
    await context.close();
  });

  await check('samples, evaluations, status; axe in both themes; dark mode by the button', async () => {
    for (const theme of ['light', 'dark']) {
      if (theme === 'dark') {
        const light = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        await page.locator('#theme').focus();
        await page.keyboard.press('Enter');
        assert.notEqual(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), light);
      }
      for (const [hash, ready] of [['#/runs', '.run'], ['#/samples?job=1', '.grid-image[src]'], ['#/evals', '.empty'], ['#/status', '.cards .card'], ['#/play?seed=5', '.stage img[src]'], ['#/curves?runs=1', '[data-panel="loss"] canvas']]) {
        await go(hash);
        await page.waitForSelector(ready);
        await sleep(150);
        await audit(`${hash} ${theme}`);
        if (shots) for (const width of [1440, 390]) {
          await page.setViewportSize({ width, height: width === 390 ? 844 : 900 });
          await sleep(400);
          await page.screenshot({ path: join(shots, `${hash.slice(2).split('?')[0]}-${width}-${theme}.png`) });
          await page.setViewportSize({ width: 1440, height: 900 });
        }
      }
    }
  });

  await check('phone width without sideways scrolling', async () => {
    await page.setViewportSize({ width: 390, height: 844 });
    for (const hash of ['#/runs', '#/curves?runs=1', '#/samples?job=1', '#/play', '#/evals', '#/status']) {
      await page.goto(`${base}/${hash}`);
      await page.reload();
      await sleep(200);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(over <= 0, `${hash} is ${over} pixels too wide`);
    }
  });

  await check('the page is under 150 kB, stays on the host, breaks no rule', async () => {
    let total = 0;
    const html = await (await fetch(`${base}/`)).text();
    const seen = new Set(['/']), queue = [...html.matchAll(/(?:href|src)="(app\/[^"]+)"/g)].map((m) => `/${m[1]}`);
    while (queue.length) {
      const path = queue.pop();
      if (seen.has(path)) continue;
      seen.add(path);
      const text = await (await fetch(base + path)).text();
      for (const m of text.matchAll(/from '\.\/([a-z]+\.js)'/g)) queue.push(`/app/${m[1]}`);
    }
    for (const path of seen) {
      const res = await fetch(base + path, { method: 'HEAD', headers: { 'Accept-Encoding': 'gzip' } });
      assert.ok(res.headers.get('etag'), `${path} has an ETag`);
      total += Number(res.headers.get('content-length'));
    }
    console.log(`# ${seen.size} files, ${total} bytes gzip`);
    assert.ok(total > 20000 && total < 150000);
    assert.deepEqual(faults.list, []);
  });
} catch (e) {
  failed = true;
  await report(e, opened, daemon, shots);
} finally {
  await browser.close();
  await daemon.end();
}
process.exit(failed ? 1 : 0);
