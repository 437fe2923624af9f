// The parameters that driftd writes into its images: the iTXt chunk with the keyword `driftd`.

// Returns the JSON object, or throws a sentence. bytes: Uint8Array of a PNG file.
export async function parameters(bytes) {
  const sig = [137, 80, 78, 71, 13, 10, 26, 10];
  if (bytes.length < 20 || sig.some((b, i) => bytes[i] !== b)) throw new Error('This file is not a PNG.');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const latin = new TextDecoder('latin1'), utf8 = new TextDecoder();
  for (let at = 8; at + 12 <= bytes.length;) {
    const size = view.getUint32(at), type = latin.decode(bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, Math.min(bytes.length, at + 8 + size));
    at += 12 + size;
    if (type !== 'iTXt') continue;
    const key = data.indexOf(0);
    if (key < 0 || latin.decode(data.subarray(0, key)) !== 'driftd') continue;
    const packed = data[key + 1] === 1;
    let p = data.indexOf(0, key + 3) + 1; // past the language
    p = data.indexOf(0, p) + 1; // past the translated keyword
    let text = data.subarray(p);
    if (packed) {
      const stream = new Blob([text]).stream().pipeThrough(new DecompressionStream('deflate'));
      text = new Uint8Array(await new Response(stream).arrayBuffer());
    }
    return JSON.parse(utf8.decode(text));
  }
  throw new Error('This PNG holds no parameters of driftd.');
}

// The query of /v1/generate that makes the picture again. Pictures from before the member `request`
// hold a list of images: the noise index starts again with every guidance scale.
export function requestOf(p) {
  if (p.request) return p.request;
  const list = p.images, again = list.findIndex((im, i) => i > 0 && im.index === 0), n = again < 0 ? list.length : again;
  const regular = list.length % n === 0 && list.every((im, i) => im.index === i % n && im.class === list[i % n].class && im.cfg === list[i - (i % n)].cfg);
  if (!regular) throw new Error('No request makes this picture.');
  return { class: list.slice(0, n).map((im) => im.class).join(','), cfg: list.filter((_, i) => i % n === 0).map((im) => im.cfg).join(','), n,
    seed: p.seed, grid: p.grid, scale: p.scale, guidance: p.guidance, checkpoint: p.checkpoint.startsWith('live:') ? 'live' : p.checkpoint };
}

// The shortest list of classes that the server spreads over n images as these labels are.
export function shorten(labels) {
  const n = labels.length;
  for (let m = 1; m < n; m++) {
    const list = Array.from({ length: m }, (_, j) => labels[Math.ceil((j * n) / m)]);
    if (labels.every((l, k) => l === list[Math.floor((k * m) / n)])) return list;
  }
  return labels;
}

// float32 .npy, little endian, C order -> {shape, data}.
export function npy(buffer) {
  const view = new DataView(buffer), major = view.getUint8(6);
  const len = major > 1 ? view.getUint32(8, true) : view.getUint16(8, true), start = (major > 1 ? 12 : 10) + len;
  const head = new TextDecoder('latin1').decode(new Uint8Array(buffer, start - len, len));
  if (!head.includes("'<f4'")) throw new Error('expected float32 values');
  const shape = /'shape': *\(([^)]*)\)/.exec(head)[1].split(',').filter((s) => s.trim()).map(Number);
  return { shape, data: new Float32Array(buffer.slice(start)) };
}
