// The parameters that driftd writes into its images: the iTXt chunk with the keyword `driftd`.

// Returns the JSON object, or throws a sentence. bytes: Uint8Array of a PNG file.
export async function parameters(bytes) {
  const sig = [137, 80, 78, 71, 13, 10, 26, 10];
  if (bytes.length < 20 || sig.some((b, i) => bytes[i] !== b)) throw new Error('This file is no PNG.');
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
  throw new Error('This PNG carries no parameters of driftd.');
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
