// The dashboard in a real browser against a real daemon on a small toy. usage:
//   browser.mjs DRIFTD CONFIG_DIR NODE_MODULES [SCREENSHOT_DIR]
// Exit 77: chromium or the packages are missing.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, dirname } from 'node:path';
import { createRequire } from 'node:module';
import assert from 'node:assert/strict';

const [driftd, configs, modules, shots] = process.argv.slice(2);
const chrome = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);
const skip = (why) => { console.log(`skipped: ${why}`); process.exit(77); };
if (!chrome) skip('there is no chromium');
if (!modules || !existsSync(join(modules, 'playwright-core'))) skip('playwright-core is not installed');
const require = createRequire(join(modules, 'x.js'));
const { chromium } = require('playwright-core');
const axe = readFileSync(join(dirname(require.resolve('axe-core')), 'axe.min.js'), 'utf8');

const SMALL = { 'train.steps': 1000000, 'train.generated': 16, 'train.positives': 16, 'model.dim': 16, 'model.depth': 1, 'data.count': 500, 'samples.every': 50, 'metrics.every': 1 };
const state = mkdtempSync(join(tmpdir(), 'driftd-web-'));
const port = await new Promise((ok) => { const s = createServer().listen(0, '127.0.0.1', () => { const p = s.address().port; s.close(() => ok(p)); }); });
const base = `http://127.0.0.1:${port}`;
const sleep = (ms) => new Promise((r) => setTimeout(r, ms));
let daemon;

async function until(what, f, ms = 60000) {
  const end = Date.now() + ms;
  for (;;) {
    try { const v = await f(); if (v) return v; } catch (e) { if (Date.now() > end) throw e; }
    assert.ok(Date.now() < end, `in time: ${what}`);
    await sleep(60);
  }
}
async function up() {
  daemon = spawn(driftd, ['serve', '--threads', '1', '--listen', `127.0.0.1:${port}`, '--state-dir', state, '--data-dir', state, '--config-dir', configs],
    { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, OMP_WAIT_POLICY: 'passive' } });
  let log = '';
  daemon.stderr.on('data', (d) => { log = (log + d).slice(-4000); });
  daemon.log = () => log;
  await until('the daemon answers', async () => (await fetch(`${base}/readyz`)).ok);
}
async function down() {
  if (!daemon || daemon.exitCode !== null) return;
  const gone = new Promise((r) => daemon.once('exit', r));
  daemon.kill('SIGTERM');
  await gone;
}
const api = async (path, init) => (await fetch(base + path, init)).json();
const post = (path, body) => api(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: body ? JSON.stringify(body) : undefined });

let count = 0;
async function check(name, f) {
  const began = Date.now();
  await f();
  count++;
  console.log(`ok ${count} ${name} (${Date.now() - began} ms)`);
}

await up();
const served = await (await fetch(`${base}/`)).text();
if (!served.includes('/app/main.js')) { await down(); skip('the daemon was built without the dashboard'); }
const browser = await chromium.launch({ executablePath: chrome, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: 'light', reducedMotion: 'reduce', acceptDownloads: true });
const page = await context.newPage();
page.setDefaultTimeout(60000);
const faults = [];
let expectLost = false;
page.on('pageerror', (e) => faults.push(`error: ${e.message}`));
page.on('console', (m) => { if (m.type() === 'error' && !expectLost && !/Failed to load resource/.test(m.text())) faults.push(`console: ${m.text()}`); });
page.on('request', (r) => { const u = new URL(r.url()); if (u.protocol.startsWith('http') && u.origin !== base) faults.push(`left the host: ${r.url()}`); });
await page.addInitScript(() => addEventListener('securitypolicyviolation', (e) => console.error(`CSP ${e.violatedDirective} ${e.blockedURI}`)));

const go = async (hash) => { await page.goto(`${base}/#/about-blank`); await page.goto(`${base}/${hash}`); };
const active = () => page.evaluate(() => { const a = document.activeElement; return a ? `${a.tagName} ${a.id} ${a.name ?? ''} ${a.textContent.slice(0, 40)} ${a.getAttribute('aria-label') ?? ''}` : ''; });
async function tabTo(selector, max = 90) {
  for (let i = 0; i < max; i++) {
    if (await page.evaluate((s) => document.activeElement?.matches(s), selector)) return;
    await page.keyboard.press('Tab');
  }
  assert.fail(`Tab never reached ${selector}; it is at ${await active()}`);
}
async function audit(name) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }).then((r) => r.violations.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.target.join(' ')).join(', ')}`)));
  assert.deepEqual(found, [], `axe on ${name}`);
}
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
    for (let i = 0; i < 20 && !(await page.evaluate(() => document.activeElement.value === 'toy-swiss-roll')); i++)
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

  await check('the daemon restarts in the middle of the stream: no gap, no duplicate', async () => {
    expectLost = true;
    await down();
    await until('the page notices', () => page.evaluate(() => document.getElementById('stream').dataset.state === 'lost'));
    await up();
    await until('the stream is back', () => page.evaluate(() => document.getElementById('stream').dataset.state === 'live'));
    const job = await api('/v1/jobs/1');
    if (!['running', 'queued'].includes(job.state)) await post('/v1/jobs/1/resume');
    await until('steps go on', async () => (await steps()).at(-1) > job.step + 20);
    expectLost = false;
  });

  await check('stop it from the list', async () => {
    const stop = page.locator('.run[data-run="1"] button', { hasText: 'Stop' });
    await page.locator('#nav a[data-page="runs"]').click();
    await stop.click();
    await page.waitForSelector('.run[data-run="1"][data-state="stopped"]');
    assert.equal((await api('/v1/jobs/1')).state, 'stopped');
  });

  await check('what the page holds is what the server has', async () => {
    await page.goBack();
    await until('the curves are there', async () => (await steps()).length > 5);
    const rows = (await api('/v1/jobs/1/metrics?names=loss&max_points=0')).series[0].rows.map((r) => r[0]);
    await until('all rows', async () => (await steps()).length === rows.length);
    assert.deepEqual(await steps(), rows);
    assert.ok(rows.every((s, i) => !i || s === rows[i - 1] + 1), 'steps without a hole');
  });

  await check('CSV equals the server\'s; PNG is one', async () => {
    const [got] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Loss: CSV' }).click()]);
    const text = readFileSync(await got.path(), 'utf8');
    assert.equal(text, await (await fetch(`${base}/v1/jobs/1/metrics?names=loss&format=csv`)).text());
    const [png] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Loss: PNG' }).click()]);
    assert.equal(readFileSync(await png.path()).subarray(1, 4).toString(), 'PNG');
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
    await audit('curves');
    await page.getByRole('button', { name: 'Loss: table' }).click();
    assert.ok(await page.locator('[data-panel="loss"] tbody tr').count() > 3);
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
    assert.match(await page.locator('.control output').first().textContent(), /100 steps, over means of \d+/);
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
    console.log(`# panning a million steps: ${fps.toFixed(0)} frames a second (median)`);
    await page.unrouteAll({ behavior: 'ignoreErrors' });
  });

  await check('an hour of live tail at 100 steps a second stays in bounded memory', async () => {
    const r = await page.evaluate(async () => {
      const { Series } = await import('/app/series.js');
      const s = new Series(50);
      let room = 0;
      for (let i = 1; i <= 360000; i++) { s.pushValue(i, i / 100, i % 1000 === 500 ? NaN : 1); room = Math.max(room, s.room); }
      let bytes = 0;
      for (const v of Object.values(s)) if (ArrayBuffer.isView(v)) bytes += v.byteLength;
      const { thin } = await import('/app/series.js');
      const t = thin([s], [s.x], [0], 1, 360000, 800);
      return { n: s.n, room, bytes, bad: s.totalBad, marked: t.out[0].bad.reduce((a, b) => a + b, 0), last: s.last, ema: s.ema[s.n - 1] };
    });
    assert.ok(r.n <= 49152 && r.room <= 49152 && r.bytes < 2.1e6, JSON.stringify(r));
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
    const box = await page.getByRole('slider', { name: 'Guidance scale' }).boundingBox();
    const src = await page.locator('.stage img').getAttribute('src');
    await page.mouse.move(box.x + box.width * 0.2, box.y + box.height / 2);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.9, box.y + box.height / 2, { steps: 5 });
    await page.mouse.up();
    await until('another image', async () => (await page.locator('.stage img').getAttribute('src')) !== src && (await pixels()) !== first);
    await page.getByRole('slider', { name: 'Guidance scale' }).focus();
    const [saved] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Save PNG' }).click()]);
    const scale = await page.getByRole('slider', { name: 'Guidance scale' }).inputValue();
    const shown = await pixels();
    await page.getByRole('button', { name: 'Dice' }).click();
    await until('the dice', async () => (await pixels()) !== shown);
    await page.setInputFiles('input[type=file]', await saved.path());
    await until('restored', async () => (await pixels()) === shown);
    assert.equal(await page.getByRole('spinbutton', { name: 'Seed' }).inputValue(), '5');
    assert.ok(Math.abs(await page.getByRole('slider', { name: 'Guidance scale' }).inputValue() - scale) < 1e-3);
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
    const seen = new Set(['/']), queue = [...html.matchAll(/(?:href|src)="(\/app\/[^"]+)"/g)].map((m) => m[1]);
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
    assert.deepEqual(faults, []);
  });
} catch (e) {
  failed = true;
  console.error(`not ok: ${e.stack}`);
  console.error(`faults: ${faults.join('; ')}\nat ${page.url()}\ndaemon: ${daemon.log?.().split('\n').slice(-6).join('\n')}`);
  if (shots) await page.screenshot({ path: join(shots, 'failure.png') }).catch(() => {});
} finally {
  await browser.close();
  await down();
  rmSync(state, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
