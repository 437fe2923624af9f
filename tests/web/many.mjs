// The page with many runs and long names: what it asks for, what it sorts, draws and joins, and that nothing
// leaves the screen. One run is real; the others are answers made here. usage:
//   many.mjs DRIFTD CONFIG_DIR NODE_MODULES [SCREENSHOT_DIR]
// Exit 77: chromium or the packages are missing.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { begin, check, Daemon, report, tools, until } from './lib.mjs';

const [driftd, configs, modules, shots] = process.argv.slice(2);
const TOY = { 'train.steps': 20, 'train.generated': 16, 'train.positives': 16, 'model.dim': 16, 'model.depth': 1, 'data.count': 500, 'samples.every': 10, 'checkpoint.every': 10 };
const LONG = `a sweep's run ${'optim.lr=0.002,loss.temperatures=0.05,'.repeat(5)}`.slice(0, 190);
const found = tools(modules);
const daemon = new Daemon(driftd, configs);
const api = (path) => daemon.get(path);

const opened = await begin(daemon, found);
const { base, browser, page, faults } = opened;
const open = async (hash) => { await page.goto('about:blank'); await page.goto(`${base}/${hash}`); };
const ids = () => page.evaluate(() => [...document.querySelectorAll('.run')].map((e) => e.dataset.run));
const emit = (type) => page.evaluate((t) => import('/app/state.js').then((m) => m.emit(t)), type);
const frames = () => page.evaluate(async () => { for (let i = 0; i < 6; i++) await new Promise(requestAnimationFrame); });
const toasts = () => page.evaluate(() => globalThis.toasted);

// Runs 1 to n in place of the server's; like(id): what differs from the real one.
let one;
const asked = []; // requests for metrics
const COLUMNS = ['step', 'step_last', 'time', 'n', 'min', 'max', 'mean', 'last', 'nonfinite'];
async function fake(n, like = () => ({})) {
  const job = (id) => ({ ...one, id: String(id), name: `run ${id}`, sample: null, ...like(id) });
  await page.unrouteAll();
  await page.route(/\/v1\/jobs\?/, (route) => {
    const q = new URL(route.request().url()).searchParams, from = +(q.get('cursor') ?? 0), limit = +(q.get('limit') ?? 50);
    const list = Array.from({ length: n }, (_, i) => ({ ...job(n - i), config: undefined }));
    return route.fulfill({ json: { jobs: list.slice(from, from + limit), next_cursor: from + limit < n ? String(from + limit) : null } });
  });
  await page.route(/\/v1\/jobs\/\d+$/, (route) => route.fulfill({ json: job(/\d+$/.exec(route.request().url())[0]) }));
  await page.route(/\/v1\/jobs\/\d+\/alerts/, (route) => route.fulfill({ json: { alerts: [] } }));
  await page.route(/\/v1\/jobs\/\d+\/metrics/, (route) => {
    const url = new URL(route.request().url()), id = +/jobs\/(\d+)/.exec(url.pathname)[1];
    asked.push(url);
    const row = (step) => [step, step, 1.7e9 + step, 1, 0, 1, id / 1000, id / 1000, 0];
    return route.fulfill({ json: { job: String(id), columns: COLUMNS, series: (url.searchParams.get('names') ?? 'loss').split(',').map((name) => ({ name, rows: [1, 10, 20].map(row) })) } });
  });
  asked.length = 0;
}

let failed = false;
try {
  await check('long names: nothing is off the screen, at a desk and on a phone', async () => {
    for (const id of ['1', '2']) assert.equal((await daemon.post('/v1/jobs', { config: 'toy-swiss-roll', overrides: TOY, name: LONG })).id, id);
    await until('both have ended', async () => (await api('/v1/jobs?state=completed')).jobs.length === 2, 240000);
    one = await api('/v1/jobs/1');
    const evals = { id: '1', kind: 'checkpoint', job: '1', job_name: LONG, eval_job: '3', checkpoint: '1', step: 20, state: 'failed', error: LONG, settings: {}, results: {}, errors: {}, floors: {}, comparable: null, created: one.created };
    await page.route(/\/v1\/evals\?/, async (route) => {
      const d = await (await route.fetch()).json();
      return route.fulfill({ json: { ...d, evals: [evals, { ...evals, id: '2', state: 'done', error: null }] } });
    });
    for (const [width, height] of [[1280, 900], [390, 844]]) {
      await page.setViewportSize({ width, height });
      for (const [name, hash, ready] of [['runs', '#/runs', '.run'], ['curves', '#/curves?runs=1,2', '[data-panel="loss"] canvas'], ['samples', '#/samples?job=1&with=2', '.grid-image[src]'], ['play', '#/play?seed=1', '.stage img[src]'],
        ['checkpoints', '#/checkpoints', 'tr[data-checkpoint]'], ['evals', '#/evals', '.eval-table tbody tr'], ['data', '#/data', '.set'], ['status', '#/status', '.cards .card']]) {
        await open(hash);
        await page.waitForSelector(ready, { state: 'attached' });
        await frames();
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(over <= 0, `${name} at ${width} is ${over} pixels too wide`);
        const off = await page.evaluate((s) => [...document.querySelectorAll('main button, main a, main select')].filter((e) => {
          const b = e.getBoundingClientRect();
          return b.width > 1 && !e.closest(s) && (b.right > innerWidth + 1 || b.left < -1);
        }).map((e) => e.getAttribute('aria-label') || e.textContent), width > 860 ? '.skip' : '.skip, .scroll, .chips, .strip');
        assert.deepEqual(off, [], `${name} at ${width}: off the screen`);
        if (shots) await page.screenshot({ path: join(shots, `long-${name}-${width}.png`), fullPage: true });
      }
    }
    await page.setViewportSize({ width: 1440, height: 900 });
  });

  await check('sorted by the drift norm, runs out of sight too; without one they are last', async () => {
    await fake(60, (id) => (+id === 30 ? { kind: 'encoder' } : {}));
    await open('#/runs');
    await until('the rows', async () => (await ids()).length === 60);
    await frames();
    assert.ok(asked.length < 40, `${asked.length} rows are fetched unasked`);
    const up = [...Array.from({ length: 60 }, (_, i) => String(i + 1)).filter((x) => x !== '30'), '30'];
    const heading = page.getByRole('button', { name: 'Drift norm' });
    await heading.click();
    await until('rising', async () => (await ids()).join() === up.join());
    assert.equal(await page.getAttribute('th.c-drift', 'aria-sort'), 'ascending');
    assert.equal(await page.textContent('.runs-bar output'), '60 runs');
    await heading.click();
    await until('falling', async () => (await ids()).join() === [...up.slice(0, -1).reverse(), '30'].join());
    assert.equal(new Set(asked.map((u) => u.pathname)).size, asked.length, 'each once');
  });

  await check('after a lost connection what is in sight is fetched again, not every run', async () => {
    await fake(200);
    await open('#/runs');
    await until('the rows', async () => (await ids()).length === 200);
    await until('those in sight', () => asked.length > 0);
    await frames();
    asked.length = 0;
    for (const why of ['hello', 'gap']) { // both are said after a restart
      assert.ok(why);
      await emit('refetch');
    }
    await until('again', () => asked.length > 0);
    await frames();
    assert.ok(asked.length < 60, `${asked.length} requests`);
  });

  await check('CSV of all names no run; of more than a thousand it is joined from parts with the columns of all', async () => {
    const requests = [], button = page.getByRole('button', { name: 'CSV of all' });
    const rows = async () => {
      const [got] = await Promise.all([page.waitForEvent('download'), button.click()]);
      return readFileSync(await got.path(), 'utf8').trim().split('\n');
    };
    await fake(1201);
    await page.route(/\/v1\/metrics\.csv/, (route) => {
      const q = new URL(route.request().url()).searchParams, list = (q.get('jobs') ?? '1').split(',');
      requests.push(q);
      if (list.length > 1000) return route.fulfill({ status: 422, json: { detail: 'more than 1000 jobs are listed' } });
      const names = q.get('names')?.split(',') ?? (list.includes('1') ? ['loss', 'drift_norm'] : ['loss', 'accuracy']); // older runs have others
      return route.fulfill({ contentType: 'text/csv', body: [`job,run,step,time,${names}`, ...(q.has('from') ? [] : list.map((id) => `${id},"run ${id}",20,1.0${names.map((n) => (n === 'loss' ? `,${id}` : ','))}`))].join('\n') + '\n' });
    });
    await open('#/runs');
    await until('the rows', async () => (await ids()).length === 1201);
    assert.equal((await rows())[0], 'job,run,step,time,loss,drift_norm');
    assert.deepEqual(requests.map(String), ['']);
    requests.length = 0;
    await page.fill('input[aria-label="Filter runs"]', 'run');
    await page.selectOption('select[aria-label="State"]', 'ended');
    await page.evaluate(() => import('/app/state.js').then((m) => { m.jobs.get('700').state = 'running'; m.emit('jobs'); }));
    await until('all but one', async () => (await ids()).length === 1200);
    const [head, ...lines] = await rows();
    assert.equal(head, 'job,run,step,time,loss,drift_norm,accuracy');
    assert.deepEqual(lines.map((l) => +l.split(',')[0]), Array.from({ length: 1201 }, (_, i) => i + 1).filter((id) => id !== 700));
    assert.ok(requests.every((q) => q.get('jobs').split(',').length <= 1000 && String(q).length < 30000));
    await page.unrouteAll();
    const from = requests.find((q) => q.has('from')).get('from'), real = await (await fetch(`${base}/v1/metrics.csv?jobs=1&from=${from}`)).text();
    assert.match(real, /^job,run,step,time,loss[^\n]*\n$/, 'of the server: the columns without rows');
  });

  await check('curves and settings of the newest 24 of those chosen', async () => {
    await fake(60, (id) => ({ config: { ...one.config, optim: { ...one.config.optim, lr: id / 1e4 } } }));
    await open('#/runs');
    await until('the rows', async () => (await ids()).length === 60);
    const newest = Array.from({ length: 24 }, (_, i) => String(37 + i));
    await page.check('input[aria-label="Choose all runs shown"]');
    await page.getByRole('button', { name: 'Settings', exact: true }).click();
    await until('a note', async () => (await toasts()).includes('Settings of the newest 24 of 60 runs.'));
    await page.waitForSelector('.diff thead th');
    assert.equal(await page.locator('.diff thead th').count(), 25);
    await page.getByRole('button', { name: 'Curves', exact: true }).click();
    await until('a note', async () => (await toasts()).includes('Curves of the newest 24 of 60 runs.'));
    const shown = () => page.evaluate(() => [...document.querySelectorAll('.chip[aria-pressed="true"]')].map((e) => e.dataset.run).sort((a, b) => a - b));
    await until('the curves', async () => (await shown()).join() === newest.join());
    await page.locator('.chip[data-run="36"]').click();
    await until('a word', async () => (await toasts()).some((t) => /24 runs at most/.test(t)));
    assert.deepEqual(await shown(), newest);
    await open(`#/curves?runs=${Array.from({ length: 60 }, (_, i) => i + 1)}`); // by an old address too
    await until('the same', async () => (await shown()).join() === newest.join());
  });

  await check('a run that has grown is fetched as long as it is by now', async () => {
    await fake(1);
    await open('#/curves?runs=1');
    await until('its rows', () => asked.some((u) => u.searchParams.get('max_points') === '0'));
    await page.waitForSelector('[data-panel="loss"] canvas');
    asked.length = 0;
    await page.evaluate(async () => { const m = await import('/app/state.js'); m.remember({ ...m.jobs.get('1'), step: 100000 }); m.emit('refetch'); });
    await until('means of it', () => asked.some((u) => u.searchParams.get('max_points') === String(Math.floor(100000 / 64) + 2)));
    assert.ok(!asked.some((u) => u.searchParams.get('max_points') === '0'));
  });

  await check('nothing broke on the way', async () => assert.deepEqual(faults.list, []));
} catch (e) {
  failed = true;
  await report(e, opened, daemon, shots);
} finally {
  await browser.close();
  await daemon.end();
}
process.exit(failed ? 1 : 0);
