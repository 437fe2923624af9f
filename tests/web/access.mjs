// A daemon that needs a token, in a real browser: the dialog that asks for it, what happens without one and
// with a wrong one, commands that do not hold it, pictures that the page fetches with it. usage:
//   access.mjs DRIFTD CONFIG_DIR NODE_MODULES [SCREENSHOT_DIR]
// Exit 77: chromium or the packages are missing.
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { audit as axeFinds, begin, check, Daemon, report, sleep, tools, until } from './lib.mjs';

const [driftd, , modules, shots] = process.argv.slice(2);
const TOKEN = 'token-of-the-test', SMALLER = 'token-for-pictures', SLOW = 'token-with-a-rate';
const found = tools(modules);
const recipes = mkdtempSync(join(tmpdir(), 'driftd-recipes-'));
const SMALL = { name: 'small', data: { set: 'digits', count: 200, size: 8, fit: 'resize' }, model: { dim: 16, depth: 1, heads: 2, patch: 4, registers: 1, style_tokens: 2 },
  train: { steps: 20, classes: 2, generated: 4, positives: 4 }, optim: { warmup: 5 }, checkpoint: { every: 0, every_seconds: 0 }, samples: { every: 0 } };
writeFileSync(join(recipes, 'small.json'), JSON.stringify(SMALL));
const daemon = new Daemon(driftd, recipes, TOKEN);
appendFileSync(daemon.secret[1], `${SMALLER} generate\n${SLOW} read 2/s\n`);

const opened = await begin(daemon, found);
const { base, browser, page, faults } = opened;
await page.addInitScript(() => { // object URLs that are not revoked
  globalThis.held = new Set();
  const { createObjectURL, revokeObjectURL } = URL;
  URL.createObjectURL = (b) => { const u = createObjectURL.call(URL, b); globalThis.held.add(u); return u; };
  URL.revokeObjectURL = (u) => { globalThis.held.delete(u); revokeObjectURL.call(URL, u); };
});

const audit = (name) => axeFinds(page, found, name);
const shot = (name) => (shots ? page.screenshot({ path: join(shots, `${name}.png`) }) : null);
const dialogs = () => page.locator('dialog').count();
const stream = (state) => until(`the stream is ${state}`, async () => (await page.getAttribute('#stream', 'data-state')) === state);
const enter = page.getByRole('button', { name: 'Enter a token' });

let failed = false;
try {
  await check('a token is asked for once; after Escape only when the user wants to', async () => {
    await page.goto(base);
    await page.waitForSelector('dialog[open]');
    assert.equal(await page.locator('#token-refused').isVisible(), false, 'none was refused yet');
    await audit('the dialog');
    await page.keyboard.press('Escape');
    await stream('locked');
    assert.ok(await enter.isVisible());
    const asked = [];
    page.on('request', (r) => asked.push(r.url()));
    await sleep(7000);
    assert.deepEqual(asked, [], 'nothing is tried by itself');
    assert.equal(await dialogs(), 0);
    await page.locator('#nav a[data-page="evals"]').click();
    await until('another page', () => asked.length > 0);
    await sleep(500);
    assert.equal(await dialogs(), 0);
    await audit('without a token');
    await page.setViewportSize({ width: 390, height: 844 });
    const box = await enter.boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= 390, JSON.stringify(box));
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0, 'too wide');
    await shot('access-390');
    await page.setViewportSize({ width: 1440, height: 900 });
  });

  await check('a wrong token is refused in words, the right one opens the page', async () => {
    await enter.click();
    await page.waitForSelector('dialog[open]');
    assert.equal(await page.locator('#token-refused').isVisible(), false);
    await page.getByLabel('Access token').last().fill('not-the-token');
    await page.keyboard.press('Enter');
    await page.waitForSelector('#token-refused:visible');
    assert.equal(await dialogs(), 1);
    await audit('a refused token');
    await shot('access-refused');
    await page.getByLabel('Access token').last().fill(` ${TOKEN} `);
    await page.keyboard.press('Enter');
    await stream('live');
    await page.waitForSelector('.page-evals .empty');
    assert.equal(await dialogs(), 0);
    assert.equal(await enter.isVisible(), false);
    await page.reload();
    await stream('live');
    assert.equal(await dialogs(), 0, 'kept while the tab is open');
  });

  await check('a token that may do too little is kept until there is another', async () => {
    const stored = () => page.evaluate(() => sessionStorage.getItem('driftd-token'));
    await page.evaluate((t) => sessionStorage.setItem('driftd-token', t), SMALLER);
    await page.reload();
    await stream('locked');
    await until('the button', () => enter.isVisible());
    assert.equal(await dialogs(), 0, 'it was not refused');
    await enter.click();
    await page.waitForSelector('dialog[open]');
    await page.keyboard.press('Escape');
    await until('no dialog', async () => (await dialogs()) === 0);
    assert.ok(await enter.isVisible());
    assert.equal(await stored(), SMALLER);
    await enter.click();
    await page.getByLabel('Access token').last().fill(TOKEN);
    await page.keyboard.press('Enter');
    await stream('live');
    await page.waitForSelector('.page-evals .empty');
    assert.equal(await stored(), TOKEN);
    assert.equal(await enter.isVisible(), false);
  });

  await check('curl reads the token from the environment', async () => {
    const job = await daemon.post('/v1/jobs', { config: 'small' });
    await until('a checkpoint', async () => (await daemon.get(`/v1/jobs/${job.id}`)).state === 'completed', 240000);
    await page.goto(`${base}/#/play?seed=5&cols=2&rows=2`);
    await until('a picture', async () => /checkpoint \d+/.test(await page.textContent('.stage figcaption')));
    await page.getByRole('button', { name: 'Copy as curl' }).click();
    const command = await until('curl', () => page.evaluate(() => navigator.clipboard.readText()).then((t) => t.startsWith('curl') && t));
    assert.ok(command.includes(' -H "Authorization: Bearer $DRIFTD_TOKEN" ') && !command.includes(TOKEN), command);
    assert.equal((await fetch(/'([^']+)'/.exec(command)[1], { method: 'POST', headers: daemon.headers })).status, 200);
  });

  await check('pictures that were fetched with the token are let go', async () => {
    const s = await daemon.post('/v1/sweeps', { name: 'rates', recipes: ['small'], axes: { 'optim.lr': [0.001, 0.004] }, seeds: 1, metrics: ['loss', 'drift_norm'] });
    assert.equal(s.cells, 2, JSON.stringify(s));
    await until('it is done', async () => (await daemon.get(`/v1/sweeps/${s.id}`)).state === 'completed', 240000);
    const held = () => page.evaluate(() => globalThis.held.size);
    await page.goto(`${base}/#/sweeps`);
    await page.waitForSelector('[data-sweep]');
    const before = await held();
    await page.click('[data-sweep] a.run-name');
    const drawn = (metric) => until(`the plot of ${metric}`, () => page.evaluate((m) => { const i = document.querySelector('.sweep-plot'); return i?.alt.startsWith(m) && i.src.startsWith('blob:') && i.naturalWidth > 500; }, metric));
    await drawn('loss');
    assert.equal(await held(), before + 1);
    const old = await page.getAttribute('.sweep-plot', 'src');
    await page.selectOption('.sweep-metric select', 'drift_norm');
    await until('another picture', async () => (await page.getAttribute('.sweep-plot', 'src')) !== old);
    await drawn('drift norm');
    assert.equal(await held(), before + 1);
    await page.goto(`${base}/#/sweeps`);
    await until('none is left', async () => (await held()) === before);
  });

  await check('a token with a rate gets everything, one request after another', async () => {
    let refused = 0;
    page.on('response', (r) => { refused += r.status() === 429; });
    await page.evaluate((t) => sessionStorage.setItem('driftd-token', t), SLOW);
    await page.goto(`${base}/#/runs`);
    await page.reload();
    await until('the curve of each run', () => page.evaluate(() => {
      const curves = [...document.querySelectorAll('.spark path')];
      return curves.length === 3 && curves.every((c) => c.getAttribute('d')?.length > 10);
    }));
    await stream('live');
    console.log(`# ${refused} requests were refused at first`);
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
