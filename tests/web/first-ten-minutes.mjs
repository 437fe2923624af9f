// docs/first-ten-minutes.md as a new user does it: types its indented lines, clicks what it says, and takes a picture
// after each step. By hand, as it builds, trains for minutes and uses the state folder it is given. usage:
//   first-ten-minutes.mjs NODE_MODULES PICTURES [REPOSITORY [COMMAND...]]
// COMMAND runs bash where the lines are typed, as `chroot ROOT` does; REPOSITORY is then a path there. Without it they
// are typed here, and states are kept in a folder that is removed afterwards.
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import assert from 'node:assert/strict';
import { openPage, tools, until } from './lib.mjs';

const here = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const [modules, pictures, repository = here, ...prefix] = process.argv.slice(2);
if (!pictures) { console.error('usage: first-ten-minutes.mjs NODE_MODULES PICTURES [REPOSITORY [COMMAND...]]'); process.exit(2); }
const LOOK = 60000; // ms for which the first run is watched before it is stopped
const found = tools(resolve(modules));
mkdirSync(pictures, { recursive: true });
const port = await new Promise((ok) => { const s = createServer().listen(0, '127.0.0.1', () => { const { port: p } = s.address(); s.close(() => ok(p)); }); });
const base = `http://127.0.0.1:${port}`;
const scratch = prefix.length ? '/tmp/ten-minutes' : mkdtempSync(join(tmpdir(), 'driftd-ten-'));
const setup = `export XDG_STATE_HOME=${scratch}/state XDG_DATA_HOME=${scratch}/data DRIFTD_PORT=${port}; mkdir -p ${scratch}/work; cd '${repository}'`;

// The steps of the page: [{title, lines}].
const steps = readFileSync(join(here, 'docs/first-ten-minutes.md'), 'utf8').split(/^## \d+\. /m).slice(1).map((text) => ({
  title: text.split('\n')[0], lines: text.split('\n').filter((l) => l.startsWith('    ')).map((l) => l.trim()) }));
const api = async (path) => (await fetch(base + path)).json();
const children = [];

// One terminal for all steps: bash as the user has it, in the repository. Ends of commands are marked.
const shell = spawn(prefix[0] ?? 'bash', [...prefix.slice(1), ...(prefix.length ? ['bash'] : [])], { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, DRIFTD_DATA: '' } });
children.push(shell);
let said = '';
for (const stream of [shell.stdout, shell.stderr]) stream.on('data', (d) => { said += d; });
async function type(line, ms = 1800000) {
  said = '';
  shell.stdin.write(`${line}\necho "<ended $?>"\n`);
  await until(`the end of ${line}`, () => { assert.equal(shell.exitCode, null, `the shell ended: ${said}`); return /<ended \d+>/.test(said); }, ms);
  const status = +/<ended (\d+)>/.exec(said)[1];
  return { status, text: said.replace(/<ended \d+>\n/, '') };
}

const { browser, page, faults } = await openPage(found, base, { viewport: { width: 1280, height: 800 } });
const paper = await browser.newPage({ viewport: { width: 1280, height: 800 } });
const escape = (t) => t.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
let picture = 0;
const next = (name) => join(pictures, `${String(++picture).padStart(2, '0')}-${name.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-')}.png`);
async function shot(name) { await page.screenshot({ path: next(name) }); }

// A picture of the terminal; images that were written stand below the text.
async function terminal(name, text, files) {
  const images = files.map((f) => `<figure><img src="data:image/png;base64,${f.bytes.toString('base64')}"><figcaption>${escape(f.name)}</figcaption></figure>`).join('');
  await paper.setContent(`<style>body{margin:0;background:#14171a;color:#e6e6e6;font:14px/1.45 monospace;padding:20px}pre{white-space:pre-wrap;margin:0}figure{margin:16px 0}img{max-width:100%;background:#fff}figcaption{color:#9aa}</style><pre>${escape(text)}</pre>${images}`);
  await paper.screenshot({ path: next(name), fullPage: true });
}
async function written(lines) {
  const out = [];
  for (const line of lines) {
    const file = /(?:-o) (\S+\.a?png)\b/.exec(line)?.[1];
    if (!file) continue;
    const { text } = await type(`base64 -w0 ${scratch}/work/${file}; echo`);
    out.push({ name: file, bytes: Buffer.from(text, 'base64') });
    assert.equal(out.at(-1).bytes.subarray(1, 4).toString(), 'PNG', `${file} is no picture`);
  }
  return out;
}

// The page's own names for ports, folders and ids.
async function filled(line) {
  let out = line.replaceAll('127.0.0.1:8080', `127.0.0.1:${port}`);
  for (const job of [1, 2])
    if (out.includes(`ID${job}`)) {
      const list = (await api(`/v1/checkpoints?job=${job}&limit=1`)).checkpoints;
      assert.ok(list.length, `run ${job} has a checkpoint`);
      out = out.replaceAll(`ID${job}`, list[0].id);
    }
  return out;
}
async function typed(step, lines = step.lines) {
  let text = '';
  for (const raw of lines) {
    const line = await filled(raw), inside = line.startsWith('./') || line.startsWith('export PATH') || line.startsWith('build/');
    // Files that the lines write go to a folder of their own; ./run is typed in the repository.
    const server = line.endsWith('&');
    const real = inside && !server ? line : `cd ${scratch}/work; ${server ? `'${repository}'/${line.replace(/ *&$/, '')} >server.log 2>&1 &` : line}; cd '${repository}'`.replace(' &;', ' &');
    const { status, text: output } = await type(real);
    text += `$ ${line}\n${output}`;
    assert.equal(status, 0, `${line}: ${output}`);
    console.log(`ok ${line}`);
    if (server) await until('the second driftd answers', async () => (await fetch(`${base}/readyz`)).ok);
  }
  await terminal(step.title, text, await written(lines));
}
const visit = async (name) => { await page.click(`#nav a[data-page="${name}"]`); };

const clicks = {
  async Start(step) { await typed(step, step.lines); },
  async Look() {
    await page.goto(base);
    await page.waitForSelector('[data-run="1"]');
    await shot('runs');
    await visit('samples');
    await page.waitForSelector('.grid-image[src]', { timeout: 600000 });
    await shot('samples');
    await visit('play');
    await page.locator('.classes .chip', { hasText: /^all$/ }).click();
    await page.waitForSelector('.stage img[src]');
    await until('a row per class', async () => /class 0-9/.test(await page.getAttribute('.stage img', 'alt')));
    await shot('playground');
  },
  async 'A run of your own'(step) {
    await visit('runs');
    await page.click('.page-head button.primary');
    await page.waitForSelector('dialog[open] #f-train-minutes');
    await page.selectOption('dialog select', 'digits');
    await page.locator('dialog label', { hasText: /^Name/ }).locator('input').fill('mine');
    await page.fill('#f-train-minutes', '1');
    await page.fill('#f-optim-lr', '0.002');
    await shot('new run');
    await page.click('dialog button[type=submit]');
    await page.waitForSelector('[data-run="2"]');
    await shot('queued');
    const began = Date.now();
    await until('something to see', async () => (await api('/v1/jobs/1')).state !== 'running' || Date.now() - began > LOOK, LOOK + 60000);
    if ((await api('/v1/jobs/1')).state !== 'running') await typed(step, step.lines.filter((l) => !/ stop /.test(l)));
    else await typed(step);
  },
  async Compare(step) {
    await typed(step, step.lines.filter((l) => / follow /.test(l)));
    assert.equal((await api('/v1/jobs/2')).state, 'completed');
    await visit('curves');
    for (const run of ['1', '2']) {
      const chip = page.locator(`.chips .chip[data-run="${run}"]`);
      await chip.waitFor();
      if (await chip.getAttribute('aria-pressed') === 'false') await chip.click();
      await page.waitForSelector(`.chips .chip[data-run="${run}"][aria-pressed="true"]`);
    }
    await page.waitForSelector('[data-panel="loss"] canvas');
    await page.waitForLoadState('networkidle', { timeout: 3000 }).catch(() => {}); // the event stream stays open
    await shot('curves of both');
    await typed(step, step.lines.filter((l) => !/ follow /.test(l)));
  },
  async 'Serve one'(step) {
    await typed(step);
    await visit('status');
    await page.waitForSelector('.cards .card');
    const served = await api('/v1/served');
    assert.equal((await api(`/v1/checkpoints/${served.checkpoint}`)).job, '2');
    await shot('status');
  },
};

let failed = false;
try {
  await type(setup);
  for (const step of steps) {
    console.log(`## ${step.title}`);
    faults.quiet = /^Back up/.test(step.title); // the server goes away
    await (clicks[step.title] ?? typed)(step);
  }
  assert.deepEqual(faults.list, [], 'errors on the page');
  writeFileSync(join(pictures, 'README.txt'), `${picture} pictures of docs/first-ten-minutes.md\n`);
  console.log(`${picture} pictures in ${pictures}`);
} catch (e) {
  failed = true;
  console.error(e);
  await page.screenshot({ path: join(pictures, 'failed.png') }).catch(() => {});
} finally {
  await browser.close();
  shell.stdin.write('kill $(jobs -p) 2>/dev/null; ./run --stop; exit\n');
  await Promise.race([new Promise((r) => shell.once('exit', r)), new Promise((r) => setTimeout(r, 70000).unref())]);
  if (!prefix.length) rmSync(scratch, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
