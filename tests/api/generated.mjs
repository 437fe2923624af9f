// A generated client against a running daemon: openapi-typescript makes its types from /openapi.json, tsc
// compiles generated.ts with them, and it submits a job and draws samples. usage:
//   generated.mjs NODE_MODULES DRIFTD
import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const [modules, driftd] = process.argv.slice(2).map((p) => resolve(p));
const here = dirname(fileURLToPath(import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'driftd-generated-')), token = 'token-of-the-test';
const run = (script, ...args) => execFileSync(process.execPath, [script, ...args], { cwd: dir, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

mkdirSync(join(dir, 'recipes'));
writeFileSync(join(dir, 'token'), `${token}\n`);
writeFileSync(join(dir, 'recipes/tiny.json'), JSON.stringify({
  name: 'tiny', data: { set: 'digits', count: 200, size: 8, fit: 'resize' },
  model: { dim: 16, depth: 1, heads: 2, patch: 4, registers: 1, style_tokens: 2 },
  train: { steps: 20, classes: 2, generated: 4, positives: 4 }, checkpoint: { every: 20, every_seconds: 0 } }));
const daemon = spawn(driftd, ['serve', '--listen=127.0.0.1:0', `--state-dir=${dir}/state`, `--config-dir=${dir}/recipes`,
  `--token-file=${dir}/token`, '--threads=1', '--generate-threads=1'], { stdio: ['ignore', 'pipe', 'inherit'] });
try {
  const url = await new Promise((ready, fail) => {
    let said = '';
    daemon.stdout.on('data', (d) => { said += d; const m = /driftd ready: (\S+)/.exec(said); if (m) ready(m[1]); });
    daemon.on('exit', (code) => fail(new Error(`driftd ended with ${code}`)));
  });
  writeFileSync(join(dir, 'openapi.json'), await (await fetch(`${url}/openapi.json`)).text());
  symlinkSync(modules, join(dir, 'node_modules'));
  copyFileSync(join(here, 'generated.ts'), join(dir, 'generated.ts'));
  writeFileSync(join(dir, 'package.json'), '{"type": "module"}');
  writeFileSync(join(dir, 'globals.d.ts'), 'declare const process: { argv: string[] };');
  run(join(modules, 'openapi-typescript/bin/cli.js'), 'openapi.json', '-o', 'driftd.d.ts');
  const types = readFileSync(join(dir, 'driftd.d.ts'), 'utf8');
  if (!types.includes('JobCreate')) throw new Error('the types lack their schemas');
  run(join(modules, 'typescript/bin/tsc'), '--strict', '--noUncheckedIndexedAccess', '--exactOptionalPropertyTypes', '--target', 'es2022',
    '--module', 'nodenext', '--moduleResolution', 'nodenext', '--lib', 'es2022,dom,dom.iterable', '--skipLibCheck', 'false', 'globals.d.ts', 'generated.ts');
  const said = run(join(dir, 'generated.js'), url, token);
  process.stdout.write(said);
  if (!/20 steps, a sample of \d+ bytes, 422: class: 99/.test(said)) throw new Error('the client did not do all of it');
} catch (e) {
  console.error(e.stdout ?? '', e.stderr ?? '', e);
  process.exitCode = 1;
} finally {
  daemon.removeAllListeners('exit');
  daemon.kill('SIGKILL');
  await new Promise((gone) => daemon.on('exit', gone));
  rmSync(dir, { recursive: true, force: true });
}
