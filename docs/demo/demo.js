// Draws with an exported model: onnxruntime-web runs it, nothing is sent anywhere. The model is
// model.onnx beside the page, or a file that the visitor opens.
import * as ort from './ort.wasm.min.mjs';
import { normals, styles } from './noise.js';

const at = (id) => document.getElementById(id);
let model = null;

// ---- metadata: the runtime does not show it, so it is read from the file's outer message

function varint(b, i) {
  let v = 0, shift = 1;
  for (;; i++) { v += (b[i] & 127) * shift; shift *= 128; if (b[i] < 128) return [v, i + 1]; }
}

// [field, from, to] of the parts of a message that hold bytes.
function* parts(b, from, to) {
  for (let i = from; i < to;) {
    let key, n;
    [key, i] = varint(b, i);
    if (key % 8 === 0) [, i] = varint(b, i);
    else if (key % 8 === 2) { [n, i] = varint(b, i); yield [Math.floor(key / 8), i, i + n]; i += n; } else i += key % 8 === 1 ? 8 : 4;
  }
}

export function metadata(bytes) {
  const out = {}, text = (from, to) => new TextDecoder().decode(bytes.subarray(from, to));
  for (const [field, from, to] of parts(bytes, 0, bytes.length)) {
    if (field !== 14) continue; // ModelProto.metadata_props
    const [key, value] = [...parts(bytes, from, to)].map(([, a, b]) => text(a, b));
    out[key] = value;
  }
  return out;
}

// The network's settings from those of a whole configuration.
function settings(meta) {
  const c = JSON.parse(meta['driftd.config']), m = { ...c.data, ...c, ...c.model };
  return { ...m, classes: Math.max(m.classes, 1), names: JSON.parse(meta['driftd.classes'] ?? '[]') };
}

// ---- drawing

export async function draw({ cls, seed, guidance, n }) {
  const { session, m } = model;
  const shape = m.noise === 'latent' || m.arch === 'mlp' ? [m.latent_dim] : [m.channels, m.size, m.size];
  const feeds = {
    noise: new ort.Tensor('float32', normals(seed, n, shape.reduce((a, b) => a * b)), [n, ...shape]),
    class: new ort.Tensor('int64', new BigInt64Array(n).fill(BigInt(cls)), [n]),
    guidance: new ort.Tensor('float32', new Float32Array(n).fill(guidance), [n]),
  };
  if (m.style_tokens) feeds.style = new ort.Tensor('int64', styles(seed, n, m.style_tokens, m.codebook), [n, m.style_tokens]);
  return (await session.run(feeds)).image;
}

// [n,C,H,W] in [-1,1] as pixels, side by side in rows of eight.
function show(image) {
  const [n, c, h, w] = image.dims, columns = Math.min(n, 8), x = image.data, canvas = at('picture');
  canvas.width = columns * w;
  canvas.height = Math.ceil(n / columns) * h;
  const g = canvas.getContext('2d'), pixels = g.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < n * h * w; i++) {
    const k = Math.floor(i / (h * w)), y = Math.floor(i / w) % h;
    const to = 4 * ((Math.floor(k / columns) * h + y) * canvas.width + (k % columns) * w + (i % w));
    for (let j = 0; j < 3; j++) pixels.data[to + j] = (x[(k * c + (c === 3 ? j : 0)) * h * w + (i % (h * w))] + 1) * 127.5;
    pixels.data[to + 3] = 255;
  }
  g.putImageData(pixels, 0, 0);
}

let busy = false, again = false;
async function update() {
  again = busy;
  if (busy || !model) return;
  busy = true;
  try {
    at('scale').value = (+at('guidance').value).toFixed(1);
    const began = performance.now(), n = Math.min(Math.max(+at('n').value || 1, 1), 64);
    const image = await draw({ cls: +at('class').value, seed: Math.max(+at('seed').value || 0, 0), guidance: +at('guidance').value, n });
    if (image.dims.length !== 4) throw new Error('this model makes points, not images');
    show(image);
    at('state').textContent = `${n} images in ${Math.round(performance.now() - began)} ms`;
  } catch (e) {
    at('state').textContent = `Cannot draw: ${e.message}`;
  }
  busy = false;
  if (again) update();
}

async function open(bytes) {
  const meta = metadata(bytes);
  if (!meta['driftd.config']) throw new Error('the file is no ONNX model exported by driftd');
  const m = settings(meta);
  model = { session: await ort.InferenceSession.create(bytes), m };
  at('class').replaceChildren(...Array.from({ length: m.classes }, (_, i) => new Option(m.names[i] ?? i, i)));
  await update();
}

const failed = (e) => { at('state').textContent = `Cannot read the model: ${e.message}`; };
for (const id of ['class', 'seed', 'guidance', 'n']) at(id).addEventListener('input', update);
at('file').addEventListener('change', async (e) => { open(new Uint8Array(await e.target.files[0].arrayBuffer())).catch(failed); });
ort.env.wasm.numThreads = 1; // more need headers that plain file servers do not send
const beside = await fetch('model.onnx').catch(() => null);
if (beside?.ok) open(new Uint8Array(await beside.arrayBuffer())).catch(failed);
else at('state').textContent = 'Open a model: driftctl export ID --format onnx';
globalThis.demo = { draw }; // for the console, and the test
