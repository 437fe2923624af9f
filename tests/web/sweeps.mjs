// The pages of sweeps in a real browser against a real daemon: a sweep of short runs is started, looked at
// while it runs, sorted, chosen in the parallel coordinates, stopped and deleted. usage:
//   sweeps.mjs DRIFTD CONFIG_DIR NODE_MODULES FILL_STORE [SCREENSHOT_DIR]
// Exit 77: chromium or the packages are missing.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { audit as axeFinds, begin, check, Daemon, report, tools, until } from './lib.mjs';

const [driftd, , modules, fill, shots] = process.argv.slice(2);
assert.ok(fill, 'FILL_STORE is missing');
const found = tools(modules);
const recipes = mkdtempSync(join(tmpdir(), 'driftd-recipes-'));
const SMALL = { name: 'small', data: { set: 'digits', count: 200, size: 8, fit: 'resize' }, model: { dim: 16, depth: 1, heads: 2, patch: 4, registers: 1, style_tokens: 2 },
  train: { steps: 20, classes: 2, generated: 4, positives: 4 }, optim: { warmup: 5 }, checkpoint: { every: 0, every_seconds: 0 }, samples: { every: 0 } };
writeFileSync(join(recipes, 'small.json'), JSON.stringify(SMALL));
const FILE = { name: 'rates', about: 'two rates, two sizes', recipes: ['small'], axes: { 'optim.lr': [0.001, 0.004], size: { four: { 'train.generated': 4 }, six: { 'train.generated': 6 } } }, seeds: 2, metrics: ['loss', 'drift_norm'] };
const daemon = new Daemon(driftd, recipes);

const opened = await begin(daemon, found);
const { base, browser, page, faults } = opened;
page.on('dialog', (d) => d.accept());

const audit = (name) => axeFinds(page, found, name);
const shot = (name) => (shots ? page.screenshot({ path: join(shots, `${name}.png`), fullPage: true }) : null);
const column = (k) => page.locator(`.sweep-table tbody tr td:nth-child(${k})`).allTextContents();

let failed = false;
try {
  await check('an empty page says how to begin; Runs leads to it', async () => {
    await page.goto(`${base}/#/runs`);
    await page.click('.page-head a[href="#/sweeps"]');
    await page.waitForSelector('.empty');
    assert.match(await page.textContent('.empty'), /driftctl ablate/);
    assert.equal(await page.getAttribute('#nav a[data-page="runs"]', 'aria-current'), 'page');
    await audit('the empty page');
  });

  await check('a sweep is a group that fills in', async () => {
    const s = await daemon.post('/v1/sweeps', FILE);
    assert.equal(s.cells, 8, JSON.stringify(s));
    await page.waitForSelector('[data-sweep="1"]');
    await until('it is done', async () => (await page.getAttribute('[data-sweep="1"]', 'data-state')) === 'completed', 240000);
    assert.match(await page.textContent('[data-sweep="1"]'), /8 of 8 runs done/);
    await audit('the list');
    await page.click('[data-sweep="1"] a.run-name');
    await page.waitForSelector('.sweep-table tbody tr');
  });

  await check('parallel coordinates, table, plot and runs say what the API does', async () => {
    const { table } = await daemon.get('/v1/sweeps/1');
    assert.equal(await page.locator('.pc-line').count(), 4);
    assert.deepEqual((await page.locator('.pc-name').allTextContents()), ['optim.lr', 'size', 'loss', 'drift norm']);
    assert.equal(await page.locator('.sweep-table tbody tr').count(), table.rows.length);
    assert.equal(await page.locator('[data-cell]').count(), 8);
    assert.ok((await column(8)).every((t) => t.includes('±')), await column(8));
    await until('the plot', () => page.evaluate(() => document.querySelector('.sweep-plot').naturalWidth > 500));
    await until('its small multiples', async () => (await page.locator('.multi-cell .mean').count()) === 4);
    await audit('a sweep');
    await shot('sweep-1440-light');
  });

  await check('sorted by a metric, also by keys; the address keeps it', async () => {
    await page.click('[data-col="loss"]');
    const rows = (await daemon.get('/v1/sweeps/1')).table.rows.map((r, k) => [r.values.loss.mean, k]).sort((a, b) => a[0] - b[0]).map(([, k]) => String(k));
    const shown = () => page.locator('.sweep-table tbody tr').evaluateAll((all) => all.map((r) => r.dataset.row));
    assert.deepEqual(await shown(), rows);
    assert.ok(await page.evaluate(() => document.activeElement.dataset.col === 'loss'), 'the focus stays');
    await page.keyboard.press('Enter');
    assert.deepEqual(await shown(), rows.reverse());
    await until('the address', () => page.url().includes('sort=loss'));
    await page.reload();
    await page.waitForSelector('.sweep-table tbody tr');
    assert.deepEqual(await shown(), rows);
  });

  await check('a chosen row is marked in the plot and alone in the list of runs', async () => {
    await page.click('.sweep-table tbody tr >> nth=0');
    assert.equal(await page.locator('.pc-line[data-chosen="true"]').count(), 1);
    assert.equal(await page.locator('[data-cell]').count(), 2);
    await page.locator('.row-pick').first().focus();
    await page.keyboard.press('Enter');
    assert.equal(await page.locator('[data-cell]').count(), 8);
    await page.keyboard.press('Enter');
    assert.equal(await page.locator('[data-cell]').count(), 2, 'the focus stays');
    await page.keyboard.press('Enter');
  });

  await check('another metric over steps', async () => {
    await page.selectOption('.sweep-metric select', 'drift_norm');
    await until('its plot', () => page.evaluate(() => { const i = document.querySelector('.sweep-plot'); return i.src.includes('drift_norm') && i.complete && i.naturalWidth > 500; }));
    await until('its small multiples', async () => (await page.locator('.multi-cell').evaluateAll((all) => all.every((b) => /drift norm/.test(b.getAttribute('aria-label'))))));
  });

  await check('small multiples: a plot per pair of values, all on the same axes, with the spread of the seeds', async () => {
    assert.deepEqual(await page.locator('.multi thead th').allTextContents(), ['optim.lr', 'size four', 'size six']);
    assert.deepEqual(await page.locator('.multi tbody th').allTextContents(), ['0.001', '0.004']);
    const { table } = await daemon.get('/v1/sweeps/1'), { series } = await daemon.get('/v1/sweeps/1/curve?metric=drift_norm');
    const rows = await page.locator('.multi-cell').evaluateAll((all) => all.map((b) => +b.dataset.rows));
    assert.deepEqual(rows.map((k) => table.rows[k].params), [[0.001, 'four'], [0.001, 'six'], [0.004, 'four'], [0.004, 'six']].map(([lr, size]) => ({ recipe: 'small', 'optim.lr': lr, size })));
    // Every mean by the shared axis: heights in pixels follow the values by one straight line.
    const drawn = await page.locator('.multi-cell .mean').evaluateAll((all) => all.map((p) => p.getAttribute('d').match(/-?[\d.]+ -?[\d.]+/g).map((q) => q.split(' ').map(Number))));
    const pairs = rows.flatMap((k, i) => series.find((s) => s.label === table.rows[k].label).points.map((p, n) => ({ ...p, x: drawn[i][n][0], y: drawn[i][n][1] })));
    const lo = pairs.reduce((a, b) => (a.value < b.value ? a : b)), hi = pairs.reduce((a, b) => (a.value > b.value ? a : b)), log = /logarithmic/.test(await page.textContent('.sweep-metric')), f = log ? Math.log : (v) => v;
    for (const p of pairs) assert.ok(Math.abs(p.y - (lo.y + ((f(p.value) - f(lo.value)) / (f(hi.value) - f(lo.value))) * (hi.y - lo.y))) < 0.5, JSON.stringify(p));
    assert.equal(await page.locator('.multi-cell .band').count(), 4);
    assert.match(await page.locator('.multi-cell').first().textContent(), /±/);
  });

  await check('a plot chooses its runs, also by keys', async () => {
    await page.locator('.multi-cell').nth(1).focus();
    await page.keyboard.press('Enter');
    assert.equal(await page.locator('.multi-cell').nth(1).getAttribute('aria-pressed'), 'true');
    assert.ok(await page.evaluate(() => document.activeElement.classList.contains('multi-cell')), 'the focus stays');
    assert.deepEqual(await page.locator('[data-cell] td:nth-child(2)').allTextContents().then((l) => [...new Set(l)].length), 1);
    assert.equal(await page.locator('.pc-line[data-chosen="true"]').count(), 1);
    assert.equal(await page.locator('[data-cell]').count(), 2);
    await page.keyboard.press('Enter');
    assert.equal(await page.locator('[data-cell]').count(), 8);
  });

  await check('72 runs: four rates by three sizes, two lines in each, and the seeds', async () => {
    const axes = { 'optim.lr': [0.001, 0.002, 0.004, 0.008], 'train.positives': [4, 6, 8], 'optim.warmup': [0, 5] };
    const s = await daemon.post('/v1/sweeps', { ...FILE, name: 'seventy-two', axes, seeds: 3, overrides: { 'train.steps': 1e9 } });
    assert.equal(s.cells, 72, JSON.stringify(s));
    await daemon.post(`/v1/sweeps/${s.id}/stop`);
    await until('it has stopped', async () => (await daemon.get(`/v1/sweeps/${s.id}`)).state === 'stopped');
    const jobs = (await daemon.get(`/v1/sweeps/${s.id}`)).list.map((c) => c.job);
    faults.quiet = true;
    await daemon.down();
    for (const job of jobs) execFileSync(fill, [join(daemon.state, 'driftd.sqlite3'), job, '300']);
    await daemon.up();
    faults.quiet = false;
    await page.goto(`${base}/#/sweeps?id=${s.id}&metric=drift_norm`);
    await page.waitForSelector('.multi-cell .band');
    assert.deepEqual([await page.locator('.multi tbody tr').count(), await page.locator('.multi-cell').count(), await page.locator('.multi-cell .mean').count(), await page.locator('.multi-cell .band').count()], [4, 12, 24, 24]);
    assert.deepEqual(await page.locator('.sweep-metric .legend li').allTextContents(), ['optim.warmup 0', 'optim.warmup 5']);
    await page.locator('.multi-cell').first().click();
    assert.equal(await page.locator('[data-cell]').count(), 6);
    await page.locator('.multi-cell').first().click();
    await page.locator('.sweep-metric').scrollIntoViewIfNeeded();
    for (const [width, height] of [[1440, 900], [390, 844]]) {
      await page.setViewportSize({ width, height });
      for (const theme of ['light', 'dark']) {
        assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0, `${width}: too wide`);
        await audit(`72 runs at ${width}, ${theme}`);
        await shot(`sweep-72-${width}-${theme}`);
        await page.locator('#theme').click();
      }
    }
    await page.setViewportSize({ width: 1440, height: 900 });
  });

  await check('a search has a plot per point', async () => {
    const search = { kind: 'random', count: 12, seed: 1, ranges: { 'optim.lr': { min: 1e-4, max: 1e-2, scale: 'log' }, 'optim.warmup': { min: 0, max: 50 } } };
    const s = await daemon.post('/v1/sweeps', { ...FILE, name: 'search', axes: {}, seeds: 1, search, overrides: { 'train.steps': 1e9 } });
    assert.equal(s.cells, 12, JSON.stringify(s));
    await daemon.post(`/v1/sweeps/${s.id}/stop`);
    await until('it has stopped', async () => (await daemon.get(`/v1/sweeps/${s.id}`)).state === 'stopped');
    const { list } = await daemon.get(`/v1/sweeps/${s.id}`);
    faults.quiet = true;
    await daemon.down();
    for (const c of list.slice(0, 11)) execFileSync(fill, [join(daemon.state, 'driftd.sqlite3'), c.job, '300']);
    await daemon.up();
    faults.quiet = false;
    await page.goto(`${base}/#/sweeps?id=${s.id}&metric=drift_norm`);
    await page.waitForSelector('.multi-row .mean');
    assert.deepEqual([await page.locator('.multi-cell').count(), await page.locator('.multi-cell .mean').count()], [12, 11]);
    assert.match(await page.locator('.multi-cell').last().textContent(), /optim\.lr [\d.]+.*none yet/);
    await audit('a search');
    await shot('sweep-search-1440');
  });

  await check('both themes and a phone', async () => {
    await page.locator('#theme').click();
    await audit('dark');
    await shot('sweep-1440-dark');
    await page.setViewportSize({ width: 390, height: 844 });
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(over <= 0, `${over} pixels too wide`);
    await audit('a phone');
    await shot('sweep-390-dark');
    await page.setViewportSize({ width: 1440, height: 900 });
  });

  await check('the list is drawn anew only when it has changed, keeps the focus, and says once that driftd is away', async () => {
    let more = false, away = false;
    const list = /\/v1\/sweeps\?/, polled = () => page.waitForResponse(list);
    await page.route(list, async (route) => {
      if (away) { await route.abort(); return; }
      const d = await (await route.fetch()).json();
      if (more) d.sweeps.unshift({ ...d.sweeps[0], id: '99' });
      await route.fulfill({ json: d });
    });
    await page.goto(`${base}/#/sweeps`);
    await page.locator('[data-sweep="1"] a.run-name').focus();
    assert.match(await page.getAttribute('[data-sweep="1"] time', 'title'), /\d{4}.*\d:\d\d/);
    await page.evaluate(() => { document.activeElement.first = true; });
    for (let i = 0; i < 2; i++) await polled();
    assert.ok(await page.evaluate(() => document.activeElement.first), 'the same element');
    more = true;
    await page.waitForSelector('[data-sweep="99"]');
    assert.deepEqual(await page.evaluate(() => [document.activeElement.getAttribute('href'), document.activeElement.first]), ['#/sweeps?id=1', undefined], 'a new one in its place');
    await page.evaluate(() => { globalThis.toasted.length = 0; });
    away = true;
    for (let i = 0; i < 3; i++) await page.waitForEvent('requestfailed', (r) => list.test(r.url()));
    assert.deepEqual(await page.evaluate(() => globalThis.toasted), ['driftd does not answer']);
    away = false;
    await polled();
    await page.unroute(list);
  });

  await check('stopped, gone on with and deleted from the page', async () => {
    const s = await daemon.post('/v1/sweeps', { ...FILE, name: 'long', overrides: { 'train.steps': 1e9 } });
    await page.goto(`${base}/#/sweeps?id=${s.id}`);
    await page.click('button:has-text("Stop")');
    const state = (want) => until(want, async () => (await daemon.get(`/v1/sweeps/${s.id}`)).state === want);
    await state('stopped');
    await page.click('button:has-text("Resume")');
    await state('running');
    await page.click('button:has-text("Stop")');
    await state('stopped');
    await page.click('button:has-text("Delete")');
    await until('the list again', () => page.url().endsWith('#/sweeps'));
    assert.equal((await daemon.get('/v1/sweeps')).sweeps.length, 3);
    assert.equal((await daemon.get('/v1/jobs?limit=200')).jobs.length, 8 + 72 + 12);
  });

  await check('nothing broke on the way', async () => assert.deepEqual(faults.list, []));
} catch (e) {
  failed = true;
  await report(e, opened, daemon, shots);
} finally {
  await browser.close();
  await daemon.end();
  rmSync(recipes, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
