// A backup from the page: the database and all files, as the daemon has frozen them, in one tar that
// `driftctl restore` takes once it is unpacked. It goes on while another page is shown.
import { post, raw } from './api.js';
import { toast, download } from './ui.js';
import { tar } from './tar.js';

const LIST = 'backup.json'; // as driftctl writes it
const PIECE = 1 << 24; // bytes of a file that are in the tab's memory; what came before is the browser's, on disk if need be
export const work = { now: null }; // {done, files, bytes, total} while one is fetched

// The body of an answer as a Blob, and its sha256, which a restore compares: crypto.subtle takes a file only as a whole.
async function received(res, sha256, grown) {
  const sum = sha256.create(), pieces = [], body = res.body.getReader();
  let held = [], n = 0;
  const put = () => { pieces.push(new Blob(held)); grown(n); held = []; n = 0; };
  for (;;) {
    const { value, done } = await body.read();
    if (done) break;
    sum.update(value);
    held.push(value);
    n += value.length;
    if (n >= PIECE) put();
  }
  put();
  return { file: new Blob(pieces), hex: [...sum.digest()].map((b) => b.toString(16).padStart(2, '0')).join('') };
}

// changed is called with every piece.
export async function backup(changed) {
  if (work.now) return;
  work.now = { done: 0, bytes: 0, total: 0, files: 0 };
  changed();
  let made = null;
  const grown = (n) => { work.now.bytes += n; changed(); };
  try {
    const { sha256 } = await import('./hashes/sha2.js'); // fetched when it is needed
    made = await post('/v1/backups');
    Object.assign(work.now, { total: made.bytes, files: made.files.length });
    const folder = `driftd-backup-${made.created.replace(/\.\d+/, '').replaceAll(':', '')}`, files = [], listed = [];
    for (const { path, bytes, url } of made.files) {
      const { file, hex } = await received(await raw(url), sha256, grown);
      listed.push({ path, bytes, sha256: hex });
      files.push({ name: `${folder}/${path}`, file });
      work.now.done++;
      changed();
    }
    const { id, created, bytes } = made;
    files.push({ name: `${folder}/${LIST}`, file: new Blob([JSON.stringify({ id, created, bytes, files: listed }, null, 1)]) });
    download(tar(files), `${folder}.tar`);
    toast('The backup is downloaded. Unpack it, then: driftctl restore FOLDER');
  } catch (e) {
    toast(`No backup was made: ${e.message}`, true);
  } finally {
    if (made) raw(`/v1/backups/${made.id}`, { method: 'DELETE' }).catch(() => {}); // the daemon keeps four at most
    work.now = null;
    changed();
  }
}
