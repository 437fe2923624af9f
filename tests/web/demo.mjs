// The demo page of docs/demo in a real browser, from a server of plain files: it draws the images that
// driftd draws for the same class, seed and guidance. usage:
//   demo.mjs NODE_MODULES DEMO_FOLDER DRIFTD CONFIG_DIR [SCREENSHOT]
// Exit 77: chromium or the packages are missing.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join } from 'node:path';
import assert from 'node:assert/strict';
import { Daemon, openPage, tools, until } from './lib.mjs';

const LIMIT = 1e-9; // NMSE
const [modules, folder, driftd, configs, shot] = process.argv.slice(2);
const found = tools(modules), daemon = new Daemon(driftd, configs);
const asked = { cls: 3, seed: 2 ** 40 + 7, guidance: 1.5, n: 4 };

// The page's files, the runtime's and the model; nothing else is there.
const types = { '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript', '.wasm': 'application/wasm' };
let model = null;
const files = createServer(async (req, res) => {
  const name = req.url === '/' ? 'index.html' : req.url.slice(1);
  try {
    if (name === 'model.onnx' && !model) throw new Error('not yet');
    const body = name === 'model.onnx' ? model : await readFile(name.startsWith('ort') ? join(modules, 'onnxruntime-web/dist', name) : join(folder, name));
    res.writeHead(200, { 'Content-Type': types[extname(name)] ?? 'application/octet-stream' }).end(body);
  } catch { res.writeHead(404).end(); }
});
await new Promise((ok) => { files.listen(0, '127.0.0.1', ok); });
const base = `http://127.0.0.1:${files.address().port}`;

async function served({ cls, seed, guidance, n }) {
  const r = await fetch(`${daemon.base}/v1/generate?class=${cls}&n=${n}&seed=${seed}&cfg=${guidance}&format=npy&checkpoint=${id}`);
  assert.equal(r.status, 200);
  const b = Buffer.from(await r.arrayBuffer()), from = 10 + b.readUInt16LE(8);
  return new Float32Array(new Uint8Array(b.subarray(from)).buffer);
}

function nmse(got, want) {
  let off = 0, all = 0;
  assert.equal(got.length, want.length);
  for (let i = 0; i < want.length; i++) { off += (got[i] - want[i]) ** 2; all += want[i] ** 2; }
  return off / all;
}

await daemon.up();
const job = await daemon.post('/v1/jobs', { config: 'digits', overrides: { 'train.steps': 5, 'train.generated': 4, 'train.positives': 8, 'train.unconditional': 4, 'data.count': 200, 'optim.warmup': 1, 'metrics.spread_every': 0, 'samples.every': 0 } });
await until('the job has completed', async () => (await daemon.get(`/v1/jobs/${job.id}`)).state === 'completed', 240000);
const { id } = (await daemon.get('/v1/checkpoints')).checkpoints[0];
const { browser, page, faults } = await openPage(found, base);
const state = () => page.textContent('#state');
let failed = false;
try {
  await page.goto(base);
  await until('the page asks for a model', async () => (await state()).includes('Open a model'));
  model = Buffer.from(await (await fetch(`${daemon.base}/v1/checkpoints/${id}/file?format=onnx`)).arrayBuffer());
  await page.setInputFiles('#file', { name: 'seven.onnx', mimeType: 'application/octet-stream', buffer: model });
  await until('a file that was opened draws', async () => /8 images in/.test(await state()));
  await page.setInputFiles('#file', { name: 'no.onnx', mimeType: 'application/octet-stream', buffer: Buffer.from('no model') });
  await until('a file that is no model is refused', async () => (await state()).startsWith('Cannot read the model'));

  await page.reload(); // the model now lies beside the page
  await until('the page draws', async () => /8 images in/.test(await state()));
  const drawn = await page.evaluate(async (a) => { const x = await globalThis.demo.draw(a); return { dims: x.dims, data: Array.from(x.data) }; }, asked);
  const bad = nmse(drawn.data, await served(asked));
  console.log(`class ${asked.cls}, seed ${asked.seed}: NMSE ${bad.toExponential(1)}`);
  assert.deepEqual(drawn.dims, [4, 1, 28, 28]);
  assert.ok(bad < LIMIT);

  // By its controls; the canvas has the server's pixels.
  await page.selectOption('#class', '5');
  await page.fill('#seed', '11');
  await page.fill('#n', '2');
  await page.fill('#guidance', '2');
  await until('two images', async () => /^2 images in/.test(await state()) && (await page.textContent('#scale')) === '2.0');
  const want = await served({ cls: 5, seed: 11, guidance: 2, n: 2 });
  const pixels = await page.evaluate(() => { const c = document.getElementById('picture'); return { w: c.width, h: c.height, data: Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data) }; });
  assert.deepEqual([pixels.w, pixels.h], [56, 28]);
  for (let k = 0; k < 2; k++) {
    for (let i = 0; i < 784; i++) {
      const grey = Math.min(Math.max((want[k * 784 + i] + 1) * 127.5, 0), 255), at = 4 * (Math.floor(i / 28) * 56 + k * 28 + (i % 28));
      assert.ok(Math.abs(pixels.data[at] - grey) <= 1, `pixel ${i} of image ${k}: ${pixels.data[at]} instead of ${grey}`);
    }
  }
  await page.evaluate(found.axe);
  const violations = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }).then((r) => r.violations.map((v) => v.id)));
  assert.deepEqual(violations, []);
  assert.deepEqual(faults.list, []);
  if (shot) await page.screenshot({ path: shot, fullPage: true });
  console.log('ok');
} catch (e) {
  failed = true;
  console.error(e, daemon.log, faults.list, await state().catch(() => ''));
}
await browser.close();
files.close();
await daemon.end();
process.exit(failed ? 1 : 0);
