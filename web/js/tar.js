// A tar archive made of files that the user has dropped: a Blob of headers and files, so that
// nothing is read before a part of it is sent. Also what a drop holds, folders walked.

const BLOCK = 512;
const text = new TextEncoder();

// A ustar header. The name is split at a slash where it is long; null: it does not fit.
function header(name, size, type = '0') {
  const h = new Uint8Array(BLOCK), bytes = text.encode(name);
  let cut = 0;
  if (bytes.length > 100) {
    for (let i = 1; i < bytes.length && i <= 155; i++) if (bytes[i] === 47 && bytes.length - i - 1 <= 100) { cut = i; break; }
    if (!cut) return null;
  }
  const put = (at, s) => h.set(typeof s === 'string' ? text.encode(s) : s, at);
  const octal = (at, n, width) => put(at, n.toString(8).padStart(width - 1, '0'));
  put(0, bytes.subarray(cut ? cut + 1 : 0));
  if (cut) put(345, bytes.subarray(0, cut));
  octal(100, 0o644, 8);
  octal(108, 0, 8);
  octal(116, 0, 8);
  octal(124, size, 12);
  octal(136, 0, 12);
  put(148, '        ');
  put(156, type);
  put(257, 'ustar');
  put(263, '00');
  octal(148, h.reduce((a, b) => a + b, 0), 7);
  h[155] = 32;
  return h;
}

const padding = (n) => new Uint8Array((BLOCK - (n % BLOCK)) % BLOCK);

// A pax header that gives the next entry its name, for those that do not fit.
function longName(name) {
  const body = (n) => text.encode(`${n} path=${name}\n`);
  let n = body(0).length;
  while (body(n).length !== n) n = body(n).length;
  return [header('pax', n, 'x'), body(n), padding(n)];
}

// So that the same drop makes the same bytes.
const sorted = (files) => [...files].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));

// Eight digits that tell a drop from another one: of names, sizes and times (FNV-1a).
export function mark(files) {
  let hash = 0x811c9dc5;
  for (const b of text.encode(sorted(files).map(({ name, file }) => `${name}\n${file.size}\n${file.lastModified}\n`).join(''))) hash = Math.imul(hash ^ b, 0x1000193);
  return (hash >>> 0).toString(16).padStart(8, '0');
}

// files: [{name, file}].
export function tar(files) {
  const parts = [];
  for (const { name, file } of sorted(files)) {
    const plain = header(name, file.size);
    if (!plain) parts.push(...longName(name));
    parts.push(plain ?? header('long', file.size), file, padding(file.size));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return new Blob(parts);
}

export const isArchive = (name) => /\.(zip|tar|tgz|txz|tar\.(gz|xz|zst|bz2))$/i.test(name);

const hidden = (name) => name.split('/').some((p) => p.startsWith('.') || p === '__MACOSX');

async function walk(entry, path, out) {
  const name = path ? `${path}/${entry.name}` : entry.name;
  if (entry.isFile) {
    out.push({ name, file: await new Promise((ok, no) => { entry.file(ok, no); }) });
    return;
  }
  const reader = entry.createReader();
  for (;;) { // a reader gives a hundred at a time
    const some = await new Promise((ok, no) => { reader.readEntries(ok, no); });
    if (!some.length) return;
    for (const e of some) await walk(e, name, out);
  }
}

// What was dropped: [{name, file}]. Entries have to be taken before the event ends.
export async function dropped(transfer) {
  const entries = [...transfer.items].map((i) => i.webkitGetAsEntry?.()).filter(Boolean), out = [];
  if (!entries.length) return chosen(transfer.files);
  for (const e of entries) await walk(e, '', out);
  return out.filter((f) => !hidden(f.name));
}

// What a file input holds; of a folder with the paths in it.
export function chosen(list) {
  return [...list].map((file) => ({ name: file.webkitRelativePath || file.name, file })).filter((f) => !hidden(f.name));
}
