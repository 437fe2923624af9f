// A backup from the page: the database and all files, as the daemon has frozen them, in one tar that
// `driftctl restore` takes once it is unpacked. It goes on while another page is shown.
import { post, raw } from './api.js';
import { toast, download } from './ui.js';
import { tar } from './tar.js';

const LIST = 'backup.json'; // as driftctl writes it
export const work = { now: null }; // {done, bytes, total} while one is fetched

// Browsers hash on https and on this machine alone, and a restore compares every file.
export const possible = () => Boolean(globalThis.crypto?.subtle);

async function sha256(blob) {
  const sum = await crypto.subtle.digest('SHA-256', await blob.arrayBuffer());
  return [...new Uint8Array(sum)].map((b) => b.toString(16).padStart(2, '0')).join('');
}

// changed is called after every file.
export async function backup(changed) {
  if (work.now) return;
  work.now = { done: 0, bytes: 0, total: 0, files: 0 };
  changed();
  let made = null;
  try {
    made = await post('/v1/backups');
    Object.assign(work.now, { total: made.bytes, files: made.files.length });
    const folder = `driftd-backup-${made.created.replace(/\.\d+/, '').replaceAll(':', '')}`, files = [], listed = [];
    for (const { path, bytes, url } of made.files) {
      const file = await (await raw(url)).blob();
      listed.push({ path, bytes, sha256: await sha256(file) });
      files.push({ name: `${folder}/${path}`, file });
      work.now.done++;
      work.now.bytes += bytes;
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
