// The noise and the style indices of a seed, as driftd draws them (docs/method.md, randomness):
// Philox4x32-10, counter (block, stream, index), then Box-Muller.

// The two halves of the product of 32-bit numbers.
function multiply(a, b) {
  const p = BigInt(a) * BigInt(b);
  return [Number(p >> 32n), Number(p & 0xffffffffn)];
}

export function philox(seed, index, stream, count) {
  const out = new Uint32Array(Math.ceil(count / 4) * 4), high = (v) => Math.floor(v / 2 ** 32);
  for (let block = 0; block < out.length / 4; block++) {
    let c = [block, stream, index >>> 0, high(index)], k = [seed % 2 ** 32, high(seed)];
    for (let round = 0; round < 10; round++) {
      const [ah, al] = multiply(c[0], 0xd2511f53), [bh, bl] = multiply(c[2], 0xcd9e8d57);
      c = [(bh ^ c[1] ^ k[0]) >>> 0, bl, (ah ^ c[3] ^ k[1]) >>> 0, al];
      k = [(k[0] + 0x9e3779b9) >>> 0, (k[1] + 0xbb67ae85) >>> 0];
    }
    out.set(c, 4 * block);
  }
  return out.subarray(0, count);
}

// Standard normals of images 0 to n - 1 of a seed, one after the other.
export function normals(seed, n, count) {
  const out = new Float32Array(n * count), whole = Math.ceil(count / 4) * 4;
  for (let k = 0; k < n; k++) {
    const u = Array.from(philox(seed, k, 0, whole), (r) => (r + 0.5) / 2 ** 32);
    for (let i = 0; i < count; i++) {
      const j = i - (i % 2), r = Math.sqrt(-2 * Math.log(u[j])), a = 2 * Math.PI * u[j + 1];
      out[k * count + i] = r * (i % 2 ? Math.sin(a) : Math.cos(a));
    }
  }
  return out;
}

export function styles(seed, n, count, codebook) {
  const out = new BigInt64Array(n * count);
  for (let k = 0; k < n; k++) philox(seed, k, 1, count).forEach((r, i) => { out[k * count + i] = BigInt(Math.floor((r * codebook) / 2 ** 32)); });
  return out;
}
