// The pages of sweeps in a real browser against a real daemon: a sweep of short runs is started, looked at
// while it runs, sorted, chosen in the parallel coordinates, stopped and deleted. usage:
//   sweeps.mjs DRIFTD CONFIG_DIR NODE_MODULES [SCREENSHOT_DIR]
// Exit 77: chromium or the packages are missing.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { audit as axeFinds, begin, check, Daemon, report, tools, until } from './lib.mjs';

const [driftd, , modules, shots] = process.argv.slice(2);
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
    await page.click('.sweep-table tbody tr >> nth=0');
    assert.equal(await page.locator('[data-cell]').count(), 8);
  });

  await check('another metric over steps', async () => {
    await page.selectOption('.page-sweeps figure select', 'drift_norm');
    await until('its plot', () => page.evaluate(() => { const i = document.querySelector('.sweep-plot'); return i.src.includes('drift_norm') && i.complete && i.naturalWidth > 500; }));
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
    assert.equal((await daemon.get('/v1/sweeps')).sweeps.length, 1);
    assert.equal((await daemon.get('/v1/jobs?limit=100')).jobs.length, 8);
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
