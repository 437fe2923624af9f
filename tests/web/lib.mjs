// Shared by the tests of the dashboard: a daemon on a free port, and a chromium that records errors,
// requests to other hosts and violations of the content security policy.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, dirname } from 'node:path';
import { createRequire } from 'node:module';
import assert from 'node:assert/strict';

export const sleep = (ms) => new Promise((r) => setTimeout(r, ms));

// Exit 77 is meson's skip.
export function skip(why) {
  console.log(`skipped: ${why}`);
  process.exit(77);
}

// Polls f until it returns something true. The limit allows for busy machines.
export async function until(what, f, ms = 90000) {
  const end = Date.now() + ms;
  for (;;) {
    try { const v = await f(); if (v) return v; } catch (e) { if (Date.now() > end) throw e; }
    assert.ok(Date.now() < end, `in time: ${what}`);
    await sleep(60);
  }
}

export class Daemon {
  // token: what every request needs; none: ''
  constructor(driftd, configs, token = '') {
    this.driftd = driftd;
    this.configs = configs;
    this.state = mkdtempSync(join(tmpdir(), 'driftd-web-'));
    this.log = '';
    this.headers = token ? { Authorization: `Bearer ${token}` } : {};
    this.secret = token ? ['--token-file', `${this.state}.token`] : [];
    if (token) writeFileSync(this.secret[1], `${token}\n`, { mode: 0o600 });
  }

  async up() {
    this.port ??= await new Promise((ok) => { const s = createServer().listen(0, '127.0.0.1', () => { const { port } = s.address(); s.close(() => ok(port)); }); });
    this.base = `http://127.0.0.1:${this.port}`;
    this.child = spawn(this.driftd, ['serve', '--threads', '1', '--listen', `127.0.0.1:${this.port}`, '--state-dir', this.state, '--data-dir', this.state, '--config-dir', this.configs, ...this.secret],
      { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, OMP_WAIT_POLICY: 'passive' } });
    this.child.stderr.on('data', (d) => { this.log = (this.log + d).slice(-4000); });
    await until('the daemon answers', async () => {
      assert.equal(this.child.exitCode, null, `driftd ended: ${this.log}`);
      return (await fetch(`${this.base}/readyz`)).ok;
    });
  }

  async down(signal = 'SIGTERM') {
    if (!this.child || this.child.exitCode !== null || this.child.signalCode !== null) return;
    const gone = new Promise((r) => this.child.once('exit', r));
    this.child.kill(signal);
    await gone;
  }

  async get(path) { return (await fetch(this.base + path, { headers: this.headers })).json(); }

  async post(path, body) {
    const res = await fetch(this.base + path, { method: 'POST', headers: { 'Content-Type': 'application/json', ...this.headers }, body: body ? JSON.stringify(body) : undefined });
    return res.json();
  }

  async end() {
    await this.down();
    rmSync(this.state, { recursive: true, force: true });
    rmSync(`${this.state}.token`, { force: true });
  }
}

// The packages and the browser; skips with the reason when one is missing.
export function tools(modules) {
  const chrome = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);
  if (!chrome) skip('there is no chromium');
  if (!modules || !existsSync(join(modules, 'playwright-core'))) skip('playwright-core is not installed');
  const require = createRequire(join(modules, 'x.js'));
  return { chrome, chromium: require('playwright-core').chromium, axe: readFileSync(join(dirname(require.resolve('axe-core')), 'axe.min.js'), 'utf8') };
}

// faults: errors of the page; while `quiet`, console errors are not recorded (the server is away).
export async function openPage({ chrome, chromium }, base, options = {}) {
  const browser = await chromium.launch({ executablePath: chrome, args: ['--no-sandbox', '--disable-dev-shm-usage', '--enable-precise-memory-info', '--js-flags=--expose-gc'] });
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: 'light', reducedMotion: 'reduce', acceptDownloads: true, ...options });
  await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: base });
  const page = await context.newPage();
  page.setDefaultTimeout(90000);
  const faults = { list: [], quiet: false };
  page.on('pageerror', (e) => faults.list.push(`error: ${e.message}`));
  page.on('console', (m) => { if (m.type() === 'error' && !faults.quiet && !/Failed to load resource/.test(m.text())) faults.list.push(`console: ${m.text()}`); });
  page.on('request', (r) => { const u = new URL(r.url()); if (u.protocol.startsWith('http') && u.origin !== base) faults.list.push(`left the host: ${r.url()}`); });
  await page.addInitScript(() => addEventListener('securitypolicyviolation', (e) => console.error(`CSP ${e.violatedDirective} ${e.blockedURI}`)));
  // Every toast of the page, as one goes after four seconds.
  await page.addInitScript(() => {
    globalThis.toasted = [];
    const added = new MutationObserver((all) => globalThis.toasted.push(...all.flatMap((m) => [...m.addedNodes].map((n) => n.textContent))));
    addEventListener('DOMContentLoaded', () => { const box = document.getElementById('toasts'); if (box) added.observe(box, { childList: true }); }); // about:blank has none
  });
  return { browser, page, faults };
}

let count = 0;
export async function check(name, f) {
  const began = Date.now();
  await f();
  console.log(`ok ${++count} ${name} (${Date.now() - began} ms)`);
}

// Starts the daemon and opens its page; skips where it was built without one.
export async function begin(daemon, found) {
  await daemon.up();
  if (!(await (await fetch(`${daemon.base}/`)).text()).includes('app/main.js')) { await daemon.end(); skip('the daemon was built without the dashboard'); }
  return { base: daemon.base, ...await openPage(found, daemon.base) };
}

// axe finds nothing on the page as it is.
export async function audit(page, { axe }, name) {
  await page.evaluate(axe);
  const bad = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }).then((r) => r.violations.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.target.join(' ')).join(', ')}`)));
  assert.deepEqual(bad, [], `axe on ${name}`);
}

// What is printed and kept when a check has failed. shots: the folder of screenshots, or none.
export async function report(e, { page, faults }, daemon, shots) {
  console.error(`not ok: ${e.stack}`);
  console.error(`faults: ${faults.list.join('; ')}\nat ${page.url()}\ndaemon: ${daemon.log.split('\n').slice(-6).join('\n')}`);
  if (shots) await page.screenshot({ path: join(shots, 'failure.png'), fullPage: true }).catch(() => {});
}
