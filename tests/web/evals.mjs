// The page Evaluations in a real browser against a real daemon: a judge and a generator of a few steps are
// trained, evaluated from the page, looked at, compared, exported and stopped. usage:
//   evals.mjs DRIFTD CONFIG_DIR NODE_MODULES [SCREENSHOT_DIR]
// Exit 77: chromium or the packages are missing.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { audit as axeFinds, begin, check, Daemon, report, tools, until } from './lib.mjs';

const [driftd, , modules, shots] = process.argv.slice(2);
const found = tools(modules);
const recipes = mkdtempSync(join(tmpdir(), 'driftd-recipes-'));
const DATA = { set: 'digits', count: 400, size: 8, fit: 'resize' };
const JUDGE = { name: 'small-judge', kind: 'encoder', data: DATA, encoder: { objective: 'classify', width: 4, blocks: [1, 1], groups: 2, batch: 32 }, train: { steps: 60 }, optim: { lr: 0.01, warmup: 5 },
  checkpoint: { every: 0, every_seconds: 0 }, metrics: { test_every: 0 } };
const TRAIN = { name: 'small', data: DATA, model: { dim: 16, depth: 1, heads: 2, patch: 4, registers: 1, style_tokens: 2 }, train: { steps: 40, generated: 4, positives: 4 }, optim: { lr: 4e-3, warmup: 10 },
  ema: { decay: [0.9], ramp: true }, checkpoint: { every: 10, every_seconds: 0, keep_last: 10 } };
writeFileSync(join(recipes, 'small-judge.json'), JSON.stringify(JUDGE));
writeFileSync(join(recipes, 'other-judge.json'), JSON.stringify({ ...JUDGE, name: 'other-judge', data: { ...DATA, size: 20 } })); // fits other pictures
const daemon = new Daemon(driftd, recipes);
const api = (path) => daemon.get(path);

const opened = await begin(daemon, found);
const { base, browser, page, faults } = opened;

const audit = (name) => axeFinds(page, found, name);
const shot = (name) => (shots ? page.screenshot({ path: join(shots, `${name}.png`), fullPage: true }) : null);
const done = async () => (await api('/v1/evals?state=done')).evals;
const lines = (plot) => page.evaluate((p) => +(document.querySelector(`[data-plot="${p}"]`)?.dataset.lines ?? -1), plot);
const ended = (id) => until(`job ${id} has ended`, async () => ['completed', 'failed'].includes((await api(`/v1/jobs/${id}`)).state), 240000);
const column = (key) => page.evaluate((k) => { const i = [...document.querySelectorAll('.eval-table thead th')].findIndex((t) => t.querySelector(`[data-col="${k}"]`)); return [...document.querySelectorAll('.eval-table tbody tr')].map((r) => [r.dataset.eval, r.children[i].textContent]); }, key);
async function saved(click) {
  const [got] = await Promise.all([page.waitForEvent('download'), click()]);
  return readFileSync(await got.path());
}

let failed = false;
try {
  await check('an empty page says how to begin', async () => {
    await page.goto(`${base}/#/evals`);
    await page.waitForSelector('.empty');
    assert.match(await page.textContent('.empty'), /driftctl eval/);
    assert.equal(await page.locator('.empty a[href="#/runs?new=1"]').count(), 1, 'there is nothing to evaluate');
    await audit('the empty page');
    const job = await daemon.post('/v1/jobs', { config: TRAIN });
    assert.ok(job.id, JSON.stringify(job));
    await ended(job.id);
    assert.equal((await api('/v1/jobs/1')).state, 'completed');
    await page.waitForSelector('.empty button.primary');
    await shot('evals-empty');
  });

  await check('the form: judges that fit, an error at its field, a start', async () => {
    const list = '**/v1/checkpoints?limit=500'; // with two networks that were imported: one of FID, one of torchvision's
    await page.route(list, async (route) => {
      const d = await (await route.fetch()).json();
      const two = ['fid', 'torchvision'].map((variant, i) => ({ ...d.checkpoints[0], id: String(901 + i), job: null, name: variant, kind: 'encoder', net: 'judge', model: { arch: 'inception', variant } }));
      await route.fulfill({ json: { ...d, checkpoints: [...d.checkpoints, ...two] } });
    });
    await page.click('.empty button.primary');
    await page.waitForSelector('dialog[open] select[name=what]');
    await until('the judges', () => page.locator('select[name=judge] option').count().then((n) => n > 2));
    const options = await page.locator('select[name=judge] option').evaluateAll((all) => all.map((o) => o.value));
    assert.deepEqual(options, ['small-judge', '', ' other']);
    await page.selectOption('select[name=what]', 'job 1');
    await page.fill('input[name=n]', '3');
    await page.click('dialog button[type=submit]');
    await page.waitForSelector('.form-errors p');
    assert.equal(await page.getAttribute('input[name=n]', 'aria-invalid'), 'true', await page.textContent('.form-errors'));
    await audit('the form');
    await shot('evals-form');
    const sent = [], note = (r) => { if (r.method() === 'POST') sent.push(r.url()); }, seed = page.locator('input[name=seed]');
    page.on('request', note);
    await seed.fill('');
    await seed.pressSequentially('1e');
    await page.click('dialog button[type=submit]');
    assert.equal(await page.textContent('.form-errors'), 'Seed: not a number');
    assert.equal(await seed.getAttribute('aria-invalid'), 'true');
    assert.deepEqual(sent, []);
    page.off('request', note);
    await seed.fill('0');
    await page.fill('input[name=n]', '100');
    await page.locator('dialog summary').click();
    assert.deepEqual(await page.locator('select[name=inception] option').evaluateAll((all) => all.map((o) => o.value)), ['', 'checkpoint:901', ' other']);
    await page.selectOption('select[name=inception]', ' other');
    assert.ok(await page.locator('input[name=inception_file]').isVisible());
    await page.selectOption('select[name=inception]', 'checkpoint:901');
    assert.ok(!(await page.locator('input[name=inception_file]').isVisible()));
    await page.click('dialog button[type=submit]');
    await until('that it is not there', async () => (await page.getAttribute('select[name=inception]', 'aria-invalid')) === 'true');
    assert.match(await page.textContent('.form-errors'), /no checkpoint 901/);
    await page.selectOption('select[name=inception]', '');
    await page.unroute(list);
    await page.fill('input[name=alpha]', '1, 2 3');
    await until('the judge again', () => page.evaluate(() => document.querySelector('select[name=judge]').value === 'small-judge'));
    await page.click('dialog button[type=submit]');
    await page.waitForSelector('dialog', { state: 'detached' });
  });

  await check('rows fill in without a reload', async () => {
    await page.waitForSelector('.eval-table tbody tr');
    await until('the first result', async () => (await page.locator('[data-pick]').count()) > 0, 240000);
    await shot('evals-running');
    await until('no more work', async () => (await page.locator('.eval-work').count()) === 0, 240000);
    const rows = await done();
    assert.equal(rows.length, 12, JSON.stringify((await api('/v1/evals')).evals.map((r) => r.error)));
    await until('twelve results', async () => (await page.locator('[data-pick]').count()) === 12);
    assert.equal(await page.locator('.eval-table tbody .badge:has-text("not comparable")').count(), 0);
  });

  await check('Samples and Curves open on a run that trains; a panel\'s CSV is of the runs that it draws', async () => {
    const { jobs } = await api('/v1/jobs'), runs = jobs.filter((j) => j.kind !== 'eval'), judge = runs.find((j) => j.kind === 'encoder').id;
    const open = async (hash) => { await page.goto('about:blank'); await page.goto(`${base}/${hash}`); };
    const grid = () => page.waitForFunction(() => document.querySelector('.sample-main .grid-image')?.naturalWidth > 0);
    assert.ok(runs.length < jobs.length && jobs[0].id !== '1');
    await open('#/samples');
    await grid();
    assert.deepEqual(await page.locator('.actions select').first().evaluate((s) => [s.value, ...[...s.options].map((o) => o.value)]), ['1', ...runs.map((j) => j.id)]);
    for (const [id, why] of [['99', /no run 99/], [jobs.find((j) => j.kind === 'eval').id, /an evaluation, which makes no grids/]]) {
      await open(`#/samples?job=${id}`);
      await until('the reason', async () => (await page.locator('.toast[data-bad="true"]').allTextContents()).some((t) => why.test(t)));
      await grid();
    }
    await open('#/curves');
    await until('one run', async () => (await page.locator('.chip[aria-pressed="true"]').evaluateAll((l) => l.map((e) => e.dataset.run).join())) === runs[0].id);
    await open(`#/curves?runs=1,${judge}`);
    await page.waitForSelector('[data-panel="accuracy"] canvas');
    const asked = [], note = (r) => { if (/format=csv/.test(r.url())) asked.push(new URL(r.url())); };
    page.on('request', note);
    await saved(() => page.getByRole('button', { name: 'Accuracy: CSV' }).click());
    assert.deepEqual(asked.map((u) => [u.pathname, u.searchParams.get('names')]), [[`/v1/jobs/${judge}/metrics`, 'accuracy,test_accuracy']]);
    page.off('request', note);
    await open('#/evals');
    await until('twelve results', async () => (await page.locator('[data-pick]').count()) === 12);
  });

  await check('the table is sorted by a metric, with errors and floors', async () => {
    const best = await api('/v1/evals?sort=fd&limit=100');
    await page.click('button[data-col="fd"]');
    assert.deepEqual((await column('fd')).map(([id]) => id), best.evals.map((r) => r.id));
    const all = Object.fromEntries(await column('kid')), r = best.evals[0];
    assert.ok(r.errors.kid > 0 && all[r.id].includes('±'), all[r.id]);
    assert.match((await column('fd'))[0][1], /floor .* ×/);
    await page.locator('button[data-col="fd"]').focus();
    await page.keyboard.press('Enter');
    assert.deepEqual((await column('fd')).map(([id]) => id), best.evals.map((x) => x.id).reverse());
    assert.ok(await page.evaluate(() => document.activeElement.dataset.col === 'fd'), 'the focus stays');
    for (const m of best.metrics.filter((x) => x.name in r.results)) assert.equal(await page.locator(`button[data-col="${m.name}"]`).getAttribute('title'), m.help);
  });

  await check('curves against the step and the scale, precision against recall', async () => {
    assert.equal(await lines('step'), 3, 'one per scale');
    assert.equal(await lines('alpha'), 4, 'one per checkpoint');
    assert.equal(await lines('plane'), 3);
    assert.equal(await page.locator('.plane circle').count(), 12);
    await page.selectOption('.eval-bar select >> nth=0', 'accuracy');
    await until('its title', async () => /accuracy against the step/.test(await page.textContent('[data-plot="step"] h2')));
    await until('the address', () => page.url().includes('metric=accuracy'));
    await page.locator('[data-plot="step"] .plot').focus();
    await page.keyboard.press('ArrowRight');
    await until('the values at the cursor', async () => /, step 10:/.test(await page.getAttribute('[data-plot="step"] .plot', 'aria-label')));
    await page.getByRole('checkbox', { name: 'over the floor' }).check();
    await until('multiples of the floor', async () => /× floor/.test(await page.textContent('[data-plot="step"] .legend')));
    await page.getByRole('checkbox', { name: 'over the floor' }).uncheck();
    await page.selectOption('.eval-bar select >> nth=0', 'fd');
  });

  await check('a run in detail: samples, confusion, nearest training pictures', async () => {
    const newest = (await done())[0].id, whole = await api(`/v1/evals/${newest}`);
    await page.waitForSelector(`[data-shown="${newest}"] .pairs figure`);
    await until('its grid', () => page.evaluate(() => document.querySelector('.eval-run .grid-image').naturalWidth > 50));
    assert.equal(await page.locator('.confusion tbody td').evaluateAll((all) => all.reduce((a, t) => a + +t.dataset.n, 0)), 100);
    assert.equal(await page.locator('.confusion tbody tr').count(), 10);
    assert.equal(await page.locator('.pairs figure').count(), whole.details.nearest.length);
    const far = await page.locator('.pairs canvas').evaluateAll((all) => all.map((c) => +/distance ([\d.]+)/.exec(c.getAttribute('aria-label'))[1]));
    assert.deepEqual(far, [...far].sort((a, b) => a - b), 'the most alike first');
    const filled = await page.locator('.pairs canvas').evaluateAll((all) => all.every((c) => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return new Set(d).size > 3; }));
    assert.ok(filled, 'each pair shows two pictures');
    await page.locator('.eval-run summary', { hasText: 'How it was measured' }).click();
    assert.match(await page.textContent('.eval-run dl'), /small-judge, \d/);
  });

  await check('runs measured differently are flagged, and share no curve', async () => {
    const job = await daemon.post('/v1/evals', { job: '1', n: 60, judge: 'small-judge' });
    await ended(job.id);
    await until('their rows', async () => (await page.locator('[data-pick]').count()) === 16);
    const rows = await done(), group = (id) => rows.find((r) => r.id === id).comparable;
    assert.equal(new Set(rows.map((r) => r.comparable)).size, 2);
    await page.selectOption('.eval-bar select >> nth=2', group('1'));
    await until('four are flagged', async () => (await page.locator('.eval-table tbody .badge:has-text("not comparable")').count()) === 4);
    assert.match(await page.locator('.eval-table tbody .badge:has-text("not comparable")').first().textContent(), /other n/);
    assert.equal(await lines('step'), 4, 'three of the group and one of the other');
    assert.equal(await page.locator('[data-plot="step"] .swatch.dashed').count(), 1);
    const mixed = await page.evaluate(async (all) => (await import('/app/evalrow.js')).curves(all, ['fd'], 'step').some((c) => new Set([...c.points.values()].map((r) => r.comparable)).size > 1), rows);
    assert.equal(mixed, false);
    const [other, a, b] = [rows.find((r) => r.settings.n === 60), ...rows.filter((r) => r.settings.n === 100 && r.step === 40)].map((r) => r.id);
    const chosen = await page.locator('[data-pick]:checked').evaluateAll((all) => all.map((x) => x.dataset.pick));
    for (const id of [...chosen.filter((x) => x !== a && x !== b), ...[a, b].filter((x) => !chosen.includes(x))]) await page.click(`[data-pick="${id}"]`);
    await until('two runs', async () => (await page.locator('.eval-run').count()) === 2);
    assert.match(await page.textContent('.side-by-side thead'), /difference/);
    await shot('evals-1440-light');
    await page.click(`[data-pick="${other}"]`);
    await until('three runs', async () => (await page.locator('.eval-run').count()) === 3);
    assert.match(await page.textContent('.side-by-side .error'), /Not comparable: other n/);
    await until('the runs in the address', () => page.url().includes('runs='));
    await page.evaluate(() => {
      globalThis.letGo = [];
      const { revokeObjectURL: drop } = URL;
      URL.revokeObjectURL = (u) => { globalThis.letGo.push(u); drop.call(URL, u); };
    });
    await until('its grid', () => page.evaluate((id) => document.querySelector(`[data-shown="${id}"] .grid-image`).naturalWidth > 0, other));
    const picture = await page.getAttribute(`[data-shown="${other}"] .grid-image`, 'src');
    await page.click(`[data-shown="${other}"] button[aria-label^="Hide"]`);
    await until('its picture is let go, no other', () => page.evaluate(([u, rest]) => globalThis.letGo.includes(u) && rest.every((s) => !globalThis.letGo.includes(document.querySelector(`[data-shown="${s}"] .grid-image`).src)), [picture, [a, b]]));
    await page.getByRole('checkbox', { name: 'show the others' }).uncheck();
    await until('only the group', async () => (await page.locator('.eval-table tbody tr').count()) === 12 && (await lines('step')) === 3);
    await until('two runs, no others, in the address', () => /others=0/.test(page.url()) && decodeURIComponent(page.url()).match(/runs=([\d,]+)/)[1].split(',').length === 2);
    const address = page.url();
    await page.reload();
    await until('the same view', async () => (await page.locator('.eval-table tbody tr').count()) === 12 && (await page.locator('.eval-run').count()) === 2);
    assert.equal(page.url(), address);
  });

  await check('CSV, JSON and PNG are the server\'s', async () => {
    const key = (await done()).find((r) => r.settings.n === 100).comparable;
    const csv = await saved(() => page.getByRole('link', { name: 'CSV', exact: true }).click());
    assert.equal(csv.toString(), await (await fetch(`${base}/v1/evals.csv?comparable=${key}`)).text());
    assert.equal(csv.toString().trim().split('\n').length, 13);
    const json = JSON.parse(await saved(() => page.getByRole('link', { name: 'JSON', exact: true }).click()));
    assert.deepEqual(json, (await api(`/v1/evals?comparable=${key}&limit=100`)).evals);
    const link = page.locator('[data-plot="alpha"] .panel-tools a'), png = await saved(() => link.click());
    assert.equal(png.subarray(1, 4).toString(), 'PNG');
    assert.ok(png.equals(Buffer.from(await (await fetch(await link.getAttribute('href'))).arrayBuffer())), 'the link is that picture');
  });

  await check('a hundred classes are a picture and a list', async () => {
    const r = await api('/v1/evals/1');
    const confusion = Array.from({ length: 100 }, (_, i) => Array.from({ length: 100 }, (_, k) => (i === k ? 9 : k === (i + 7) % 100 ? 1 : 0)));
    await page.route('**/v1/evals/1', (route) => route.fulfill({ json: { ...r, details: { ...r.details, classes: confusion.map((_, i) => `class ${i}`), confusion, per_class: null } } }));
    await page.goto(`${base}/#/evals?runs=1`);
    await page.reload();
    await page.waitForSelector('.heat');
    assert.match(await page.textContent('.eval-run'), /class 0 seen as class 7 \(10 %\)/);
    await page.unroute('**/v1/evals/1');
  });

  await check('a run without a finished evaluation leaves the way back; one that is gone is chosen no more', async () => {
    const list = /\/v1\/evals\?/, run = page.locator('.eval-bar select >> nth=1'), count = () => page.locator('.eval-table tbody tr').count();
    await page.route(list, async (route) => {
      const d = await (await route.fetch()).json();
      const unlucky = { ...d.evals[0], id: '9001', job: '77', job_name: 'unlucky', eval_job: '78', state: 'failed', error: 'no memory', comparable: null, results: {}, errors: {}, floors: {}, best: false };
      await route.fulfill({ json: { ...d, evals: [unlucky, ...d.evals] } });
    });
    await page.goto(`${base}/#/evals?job=999`);
    await page.reload();
    await until('all of them', async () => (await count()) === 17);
    await until('the address', () => !/job=/.test(page.url()));
    await run.selectOption('77');
    await until('its row', async () => (await count()) === 1);
    assert.equal(await page.locator('.eval-plots').isVisible(), false);
    assert.ok(await run.isVisible());
    await run.selectOption('');
    await until('all of them again', async () => (await count()) === 17 && (await lines('step')) > 0);
    assert.ok(await page.locator('.eval-plots').isVisible());
    await page.unroute(list);
    await page.goto(`${base}/#/evals`);
    await page.reload();
    await until('without it', async () => (await count()) === 16);
  });

  await check('a long evaluation is stopped, resumed, stopped, and its row deleted', async () => {
    const id = (await api('/v1/checkpoints?job=1')).checkpoints[0].id;
    const job = await daemon.post('/v1/evals', { checkpoint: id, n: 3000000, judge: 'small-judge' });
    const card = `.eval-work[data-job="${job.id}"]`;
    await page.waitForSelector(`${card}[data-state="running"]`);
    await until('progress', () => page.evaluate((c) => document.querySelector(`${c} progress`).value > 0, card));
    await page.click(`${card} button:has-text("Stop")`);
    await page.waitForSelector(`${card}[data-state="stopped"]`);
    assert.equal((await api(`/v1/jobs/${job.id}`)).state, 'stopped');
    await page.click(`${card} button:has-text("Resume")`);
    await page.waitForSelector(`${card}[data-state="running"]`);
    await page.click(`${card} button:has-text("Stop")`);
    await page.waitForSelector(`${card}[data-state="stopped"]`);
    const row = (await api(`/v1/evals?eval_job=${job.id}`)).evals[0].id;
    await page.waitForSelector(`[data-eval="${row}"] .badge[data-state="stopped"]`);
    page.once('dialog', (d) => d.accept());
    await page.click(`[data-drop="${row}"]`);
    await until('it is gone', async () => (await page.locator(card).count()) === 0);
    assert.deepEqual((await api(`/v1/evals?eval_job=${job.id}`)).evals, []);
  });

  await check('both themes, a phone; axe finds nothing', async () => {
    const rows = await done(), two = rows.filter((r) => r.settings.n === 100 && r.step === 40).slice(0, 2).map((r) => r.id);
    for (const runs of [two.slice(0, 1), two]) {
      await page.setViewportSize({ width: 1440, height: 900 });
      await page.goto(`${base}/#/evals?runs=${runs}`);
      await page.reload();
      await page.waitForSelector('.eval-run .pairs figure');
      await audit(`${runs.length} in light mode`);
      await page.locator('#theme').click();
      await until('dark', () => page.evaluate(() => document.documentElement.dataset.theme === 'dark'));
      await page.waitForSelector('.eval-run .pairs figure');
      await audit(`${runs.length} in dark mode`);
      await shot(`evals-${runs.length}-1440-dark`);
      await page.setViewportSize({ width: 390, height: 844 });
      await until('the plots fit', () => page.evaluate(() => document.querySelector('[data-plot="step"] canvas').clientWidth < 390));
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(over <= 0, `${over} pixels too wide`);
      await audit(`${runs.length} on a phone`);
      await shot(`evals-${runs.length}-390-dark`);
      await page.locator('#theme').click();
      await shot(`evals-${runs.length}-390-light`);
    }
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
