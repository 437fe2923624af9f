// HTTP for every page: JSON with problems as errors, the bearer token if the server needs one, and
// the one event stream of the page (by fetch, as EventSource can send neither a token nor a
// Last-Event-ID). The protocol is described by openapi.json.

// Where this driftd is: a proxy may serve it below a path (https://host/driftd-a/).
const root = new URL('../', import.meta.url);
// The whole URL of a path of the API.
export const at = (path) => new URL(path.replace(/^\//, ''), root).href;

const tokenKey = `driftd-token${root.pathname === '/' ? '' : root.pathname}`;
let token = sessionStorage.getItem(tokenKey) ?? '';
let asking = null;
let declined = false; // the dialog was closed without a token: it stays away until enterToken()
let onWanted = () => {};
let given = () => {}; // ends the stream's wait for a token

export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail ?? `the server answered ${status}`);
    this.status = status; // 0: no answer
    this.type = body?.type ?? '';
    this.errors = body?.errors ?? [];
    this.retryAfter = body?.retry_after;
  }
}

// The token may do too little for what was asked.
const tooSmall = (e) => e.status === 403 && e.type === 'urn:driftd:problem:insufficient-scope';

const make = (tag, props) => Object.assign(document.createElement(tag), props);

// One dialog, even if several requests were refused at once. Resolves to whether a token was entered.
function askToken(refused) {
  asking ??= new Promise((resolve) => {
    const dialog = make('dialog'), form = make('form', { method: 'dialog' });
    const input = make('input', { type: 'password', autocomplete: 'current-password', required: true,
      pattern: '\\s*[!-~]+\\s*', title: 'letters, digits and signs without spaces' }); // what a header may hold
    for (const el of [dialog, input]) el.setAttribute('aria-label', 'Access token');
    form.append(make('h2', { textContent: 'Enter this server\'s access token' }), make('p', { id: 'token-refused', className: 'error', textContent: 'The server refused this token.', hidden: !refused }),
      input, make('button', { textContent: 'Continue', className: 'primary', value: 'ok' }));
    if (refused) input.setAttribute('aria-describedby', 'token-refused');
    dialog.append(form);
    document.body.append(dialog);
    dialog.addEventListener('close', () => {
      const entered = dialog.returnValue === 'ok';
      if (entered) token = input.value.trim();
      else if (refused) token = ''; // after Escape one that was not refused stays, as it may do something
      sessionStorage.setItem(tokenKey, token);
      dialog.remove();
      asking = null;
      declined = !entered;
      onWanted(!entered);
      if (entered) given();
      resolve(entered);
    });
    dialog.showModal();
  });
  return asking;
}

// f(yes): whether the page needs a token, or one that may do more, and does not ask for it by itself.
export function whenTokenWanted(f) { onWanted = f; }

export function enterToken() {
  declined = false;
  return askToken(false);
}

// A lost server, in place of the browser's words.
function lost(e) {
  throw e instanceof TypeError ? new Problem(0, { detail: 'driftd does not answer' }) : e;
}

const PATIENCE = 60000; // ms that a request waits for its token's rate
// What waits: the requests that change something, then the others. next: when the last turn is.
const writes = { waiting: [], next: 0 }, reads = { waiting: [], next: 0 };

// After a refusal for the token's rate: waits for a turn and returns true; false where that takes too long. Requests
// go on one after another: all at once, they would be refused again. A turn is of whoever is first by then, so that
// what changes something does not wait for what is only shown.
async function turn(problem, began, { method = 'GET', signal }) {
  if (problem.type !== 'urn:driftd:problem:rate-limited') return false;
  const line = method === 'GET' ? reads : writes;
  const now = performance.now(), at = Math.max(now, line.next) + Math.max(50, 1000 * (problem.retryAfter ?? 1));
  if (at > began + PATIENCE) return false;
  line.next = at;
  await new Promise((resolve, reject) => {
    line.waiting.push(resolve);
    setTimeout(() => (writes.waiting.shift() ?? reads.waiting.shift())?.(), at - now);
    signal?.addEventListener('abort', () => { line.waiting = line.waiting.filter((r) => r !== resolve); reject(signal.reason); });
  });
  return true;
}

export async function raw(path, init = {}) {
  const began = performance.now();
  for (;;) {
    const sent = token, headers = { ...init.headers };
    if (sent) headers.Authorization = `Bearer ${sent}`;
    const res = await fetch(at(path), { ...init, headers }).catch(lost);
    // Another token may have been entered while this request was on its way.
    if (res.status === 401 && (sent !== token || (!declined && await askToken(sent !== '')))) continue;
    if (res.ok) return res;
    let body = null;
    try { body = await res.json(); } catch { /* not a problem document */ }
    const problem = new Problem(res.status, body);
    if (sent === token && tooSmall(problem)) onWanted(true);
    if (!await turn(problem, began, init)) throw problem;
  }
}

// Whether requests need a token, which links do not send.
export const secured = () => token !== '';

const PIECE = 1 << 24; // bytes that are in the tab's memory; what came before is the browser's, on disk if need be

// The body of an answer as a Blob. each(bytes) sees what comes.
export async function blobOf(res, each = () => {}) {
  const pieces = [], body = res.body.getReader();
  let held = [], n = 0;
  const put = () => { pieces.push(new Blob(held)); held = []; n = 0; };
  for (;;) {
    const { value, done } = await body.read().catch(lost);
    if (done) break;
    each(value);
    held.push(value);
    n += value.length;
    if (n >= PIECE) put();
  }
  put();
  return new Blob(pieces);
}

export async function get(path, init) {
  return (await raw(path, init)).json().catch(lost);
}

export async function post(path, body, headers = {}) {
  const init = { method: 'POST', headers };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { 'Content-Type': 'application/json', ...headers };
  }
  const res = await raw(path, init);
  return res.headers.get('Content-Type')?.includes('json') ? res.json().catch(lost) : null;
}

export async function send(method, path, body) {
  const init = body === undefined ? { method } : { method, body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } };
  return (await raw(path, init)).json().catch(lost);
}

// Calls load now, and every ms if wanted(), unless the last call is still waiting: polls would fill the queue of a token
// with a slow rate. first: the promise of the first call.
export function poll(load, ms, wanted = () => true) {
  let busy = false;
  const once = async () => { busy = true; try { await load(); } finally { busy = false; } };
  const timer = setInterval(() => { if (!busy && wanted()) once(); }, ms);
  return { first: once(), end: () => clearInterval(timer) };
}

export const query = (o) => new URLSearchParams(
  Object.entries(o).filter(([, v]) => v !== undefined && v !== null && v !== '')).toString();

// A list of the API, page by page.
export async function* pages(path) {
  let cursor = '';
  do {
    const page = await get(`${path}?${query({ limit: 1000, cursor })}`);
    yield page;
    cursor = page.next_cursor;
  } while (cursor);
}

// ---- the event stream ----

const HIDDEN = 30000; // ms that a hidden tab keeps its stream

// Follows /v1/events for ever and calls on(type, data, id) once per event. A reconnect asks for the
// events after `last`; where the server no longer has them, it sends `gap`.
export class Stream {
  constructor(on, onState) {
    this.on = on;
    this.onState = onState;
    this.last = '';
    this.beat = 0;
    this.away = false; // the tab is hidden and has let go of its stream
  }

  start() {
    this.run();
    // Ends a silent connection: the server sends a ping every 15 s.
    setInterval(() => { if (this.beat && performance.now() - this.beat > 40000) this.abort?.abort(); }, 5000);
    addEventListener('online', () => this.wake?.());
    document.addEventListener('visibilitychange', () => this.look());
    this.look();
  }

  // Browsers allow six connections to a server, for all tabs together: a hidden one leaves its own to the others.
  look() {
    clearTimeout(this.leave);
    if (document.hidden) {
      this.leave = setTimeout(() => { this.away = true; this.abort?.abort(); }, HIDDEN);
    } else if (this.away) {
      this.away = false;
      this.shown?.();
    }
  }

  async run() {
    let wait = 500;
    for (;;) {
      let locked = false;
      if (this.away) {
        this.onState('wait');
        await new Promise((r) => { this.shown = r; });
        wait = 500;
      }
      try {
        await this.once(() => { wait = 500; });
      } catch (e) {
        locked = e instanceof Problem && (e.status === 401 || tooSmall(e));
      }
      this.beat = 0;
      if (this.away) continue;
      this.onState(locked ? 'locked' : 'lost');
      if (locked) { await new Promise((r) => { given = r; }); continue; }
      await new Promise((r) => { this.wake = r; setTimeout(r, wait); });
      wait = Math.min(wait * 1.6, 5000);
    }
  }

  async once(connected) {
    this.abort = new AbortController();
    const headers = { Accept: 'text/event-stream' };
    if (this.last) headers['Last-Event-ID'] = this.last;
    const res = await raw('/v1/events', { headers, signal: this.abort.signal });
    connected();
    this.onState('live');
    const reader = res.body.pipeThrough(new TextDecoderStream()).getReader();
    let pending = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      this.beat = performance.now();
      pending += value;
      let end;
      while ((end = pending.indexOf('\n\n')) >= 0) {
        this.frame(pending.slice(0, end));
        pending = pending.slice(end + 2);
      }
    }
  }

  frame(text) {
    let type = 'message', data = '', id = '';
    for (const line of text.split('\n')) {
      const colon = line.indexOf(':');
      const value = line.slice(colon + 1).trimStart();
      if (line.startsWith('event:')) type = value;
      else if (line.startsWith('data:')) data += value;
      else if (line.startsWith('id:')) id = value;
    }
    if (id) {
      if (!newer(id, this.last)) return; // seen before
      this.last = id;
    }
    if (data) this.on(type, JSON.parse(data), id);
  }
}

function newer(id, last) {
  if (!last) return true;
  const [b, s] = id.split('-').map(Number), [lb, ls] = last.split('-').map(Number);
  return b > lb || (b === lb && s > ls);
}
