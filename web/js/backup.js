// A backup from the page: the database and all files, as the daemon has frozen them, in one tar that
// `driftctl restore` takes once it is unpacked. It goes on while another page is shown.
import { blobOf, post, raw } from './api.js';
import { toast, download } from './ui.js';
import { tar } from './tar.js';

const LIST = 'backup.json'; // as driftctl writes it
export const work = { now: null }; // {done, files, bytes, total} while one is fetched

// changed is called while files come. A restore compares their sha256; crypto.subtle would take a file only as a whole.
export async function backup(changed) {
  if (work.now) return;
  work.now = { done: 0, bytes: 0, total: 0, files: 0 };
  changed();
  let made = null;
  try {
    const { sha256 } = await import('./hashes/sha2.js'); // fetched when it is needed
    made = await post('/v1/backups');
    Object.assign(work.now, { total: made.bytes, files: made.files.length });
    const folder = `driftd-backup-${made.created.replace(/\.\d+/, '').replaceAll(':', '')}`, files = [], listed = [];
    for (const { path, bytes, url } of made.files) {
      const sum = sha256.create();
      const file = await blobOf(await raw(url), (part) => { sum.update(part); work.now.bytes += part.length; changed(); });
      listed.push({ path, bytes, sha256: [...sum.digest()].map((b) => b.toString(16).padStart(2, '0')).join('') });
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
