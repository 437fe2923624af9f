// Exported graphs in onnxruntime (its WebAssembly build) against the engine: 16 images of each recipe's
// architecture, and of the options that no recipe has. usage:
//   onnx.mjs NODE_MODULES TEST_EXPORT RECIPE.json...
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import assert from 'node:assert/strict';

const LIMIT = 1e-9; // NMSE
const [modules, binary, ...recipes] = process.argv.slice(2);
const require = createRequire(join(modules, 'x.js'));
const ort = await import(pathToFileURL(require.resolve('onnxruntime-web')).href);
ort.env.wasm.numThreads = 1;
ort.env.logLevel = 'error';

function safetensors(path) {
  const b = readFileSync(path), size = Number(b.readBigUInt64LE(0)), head = JSON.parse(b.toString('utf8', 8, 8 + size));
  const out = {};
  for (const [name, t] of Object.entries(head)) {
    if (name === '__metadata__') continue;
    const [from, to] = t.data_offsets, raw = new Uint8Array(b.subarray(8 + size + from, 8 + size + to)).buffer;
    out[name] = { shape: t.shape, data: t.dtype === 'F32' ? new Float32Array(raw) : new Int32Array(raw) };
  }
  return out;
}

const long = (v) => BigInt64Array.from(v, BigInt);

// The inputs of samples [from, to).
function feeds(v, from, to) {
  const part = (t) => { const row = t.data.length / t.shape[0]; return t.data.subarray(from * row, to * row); };
  const shape = (t) => [to - from, ...t.shape.slice(1)];
  const out = {
    noise: new ort.Tensor('float32', part(v['in.noise']), shape(v['in.noise'])),
    class: new ort.Tensor('int64', long(part(v['in.class'])), [to - from]),
    guidance: new ort.Tensor('float32', part(v['in.alpha']), [to - from]),
  };
  if (v['in.style']) out.style = new ort.Tensor('int64', long(part(v['in.style'])), shape(v['in.style']));
  return out;
}

function nmse(got, want) {
  let off = 0, all = 0;
  for (let i = 0; i < want.length; i++) { off += (got[i] - want[i]) ** 2; all += want[i] ** 2; }
  return off / all;
}

const folder = mkdtempSync(join(tmpdir(), 'driftd-onnx-'));
try {
  const made = spawnSync(binary, [folder, ...recipes], { encoding: 'utf8' });
  assert.equal(made.status, 0, made.stdout + made.stderr);
  const names = readdirSync(folder).filter((f) => f.endsWith('.vectors')).map((f) => f.slice(0, -8)).sort();
  assert.ok(names.length >= 12, `a file per recipe: ${names}`);
  for (const name of names) {
    const v = safetensors(join(folder, `${name}.vectors`));
    const session = await ort.InferenceSession.create(readFileSync(join(folder, `${name}.onnx`)));
    assert.deepEqual([...session.inputNames].sort(), ['class', 'guidance', 'noise', ...(v['in.style'] ? ['style'] : [])], name);
    const all = (await session.run(feeds(v, 0, 16))).image;
    assert.deepEqual([...all.dims], v.image.shape, name);
    const bad = nmse(all.data, v.image.data);
    const one = (await session.run(feeds(v, 5, 6))).image, row = v.image.data.length / 16; // any batch
    const alone = nmse(one.data, v.image.data.subarray(5 * row, 6 * row));
    console.log(`${name.padEnd(28)} ${v.image.shape.join('x').padEnd(14)} NMSE ${bad.toExponential(1)}, alone ${alone.toExponential(1)}`);
    assert.ok(bad < LIMIT && alone < LIMIT, name);
    await session.release();
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
