// One run in the table of runs: a row that is updated in place, and below it, once opened, everything
// else about the run: values, settings, name and notes, actions.
import { get, raw, send } from './api.js';
import { jobs, loadJobs, remember, stepsTotal, trains } from './state.js';
import { h, fill, text, num, int, duration, ago, stamp, toast, saves, unsaved } from './ui.js';

const POINTS = 60; // of a sparkline
const narrow = matchMedia('(max-width: 860px)');
const SVG = 'http://www.w3.org/2000/svg';

export const value = (v) => (Array.isArray(v) ? v.join(',') : v === '' ? '""' : String(v));
// What a run changes of its recipe: ["optim.lr=0.002", ...]
export const paths = (j) => Object.entries(j.changed ?? {}).map(([k, v]) => `${k}=${value(v)}`);

function curve() {
  const svg = document.createElementNS(SVG, 'svg'), path = document.createElementNS(SVG, 'path');
  svg.setAttribute('viewBox', '0 0 100 24');
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  svg.classList.add('spark');
  svg.append(path);
  return { svg, draw(list) {
    const known = list.filter(([, v]) => Number.isFinite(v));
    if (known.length < 2) { path.setAttribute('d', ''); return; }
    const x0 = known[0][0], x1 = known.at(-1)[0], lo = Math.min(...known.map((p) => p[1])), hi = Math.max(...known.map((p) => p[1]));
    path.setAttribute('d', known.map(([x, v], i) => `${i ? 'L' : 'M'}${((100 * (x - x0)) / (x1 - x0 || 1)).toFixed(1)} ${(22 - (20 * (v - lo)) / (hi - lo || 1)).toFixed(1)}`).join(''));
  } };
}

export function runRow(id, host) {
  const name = h('a.run-name'), sub = h('span.sub'), brief = h('span.sub.brief'), state = h('span.badge'), bar = h('progress', { max: '1', value: '0' });
  const norm = h('span.spark-value'), steps = h('span'), rate = h('small'), time = h('span'), when = h('time'), changed = h('div.changes'), spark = curve();
  const pic = h('img', { alt: '', hidden: true }), thumb = h('a.thumb', { tabindex: '-1', 'aria-hidden': 'true', href: `#/samples?job=${id}` }, pic);
  const pick = h('input', { type: 'checkbox', 'aria-label': `Choose run ${id}`, onchange: () => host.pick(id, pick.checked) });
  const opener = h('button.quiet.opener', { type: 'button', 'aria-expanded': 'false', 'aria-controls': `run-${id}`, onclick: () => toggle() }, h('span', { 'aria-hidden': 'true' }, '▾'));
  const make = (action, label, cls = 'quiet') => h(`button.${cls}`, { type: 'button', 'aria-label': `${label} run ${id}`, onclick: () => host.act(jobs.get(id), action) }, label);
  const buttons = { pause: make('pause', 'Pause'), resume: make('resume', 'Resume'), stop: make('stop', 'Stop') };
  const acts = h('div.acts', null, Object.values(buttons), opener);
  const row = h('tr', null, h('td.c-pick', null, pick), h('td.c-thumb', null, thumb),
    h('th.c-id', { scope: 'row' }, name, sub, brief), h('td.c-state', null, state, bar), h('td.c-changed', null, changed),
    h('td.c-drift', null, h('div.spark-box', null, spark.svg, norm)), h('td.c-step', null, steps, rate), h('td.c-time', null, time, h('small', null, when)),
    h('td.c-act', null, acts));
  const more = h('tr.more', { id: `run-${id}`, hidden: true });
  const el = h('tbody.run', { data: { run: id } }, row, more);
  let detail = null, list = [], asked = false, fetched = null, address = '', url = '', span = 0;

  // ---- what is fetched once the row is in sight ----

  function look() {
    const j = jobs.get(id);
    if (!j || asked) return;
    asked = true;
    show(j.sample);
    values();
  }
  // The curve and the newest values; once, unless it failed.
  const values = () => (fetched ??= fetchValues());
  async function fetchValues() {
    const j = jobs.get(id);
    if (!j || !trains(j) || !j.step) return;
    const name1 = j.kind === 'encoder' ? 'loss' : 'drift_norm';
    try {
      // Rows are stored a little after their step: the last ones come by the stream.
      const d = await get(`/v1/jobs/${id}/metrics?names=${name1},loss&max_points=${POINTS}`);
      const rows = (n) => d.series.find((s) => s.name === n)?.rows ?? [];
      list = rows(name1).map((r) => [r[1], r[6] ?? NaN]);
      span = Math.max(1, (j.steps_total || j.step) / POINTS);
      const now = jobs.get(id), last = rows('loss').at(-1);
      if (now && last && !(now.newest?.step >= last[1])) now.newest = { step: last[1], loss: last[7], drift_norm: rows('drift_norm').at(-1)?.[7] ?? null };
      spark.draw(list);
      update();
    } catch { again(); }
  }
  function again() {
    asked = false;
    fetched = null;
  }
  async function show(path) {
    if (!path || path === address) return;
    address = path;
    try {
      const made = URL.createObjectURL(await (await raw(path)).blob());
      if (address !== path) { URL.revokeObjectURL(made); return; }
      if (url) URL.revokeObjectURL(url);
      url = made;
      pic.src = url;
      pic.hidden = false;
    } catch { address = ''; }
  }
  function grow(j) {
    const v = j.kind === 'encoder' ? j.newest?.loss : j.newest?.drift_norm, step = j.newest?.step;
    if (v === null || v === undefined || !(step > (list.at(-1)?.[0] ?? -1))) return;
    if (list.length > 1 && step - list.at(-2)[0] < span) list[list.length - 1] = [step, v];
    else list.push([step, v]);
    if (list.length > 2 * POINTS) list = list.filter((_, i) => i % 2 || i === list.length - 1);
    spark.draw(list);
  }

  // ---- the row ----

  function update() {
    const j = jobs.get(id);
    if (!j) return;
    const title = j.name || j.recipe, going = j.state === 'running' || j.state === 'queued', done = j.state === 'completed';
    name.href = `#/curves?runs=${id}`;
    text(name, title);
    text(sub, `${id} · ${j.recipe}${j.data && j.data !== j.recipe && j.data !== title ? ` · ${j.data}` : ''}`);
    const facts = paths(j);
    text(brief, [j.state === 'completed' ? '' : j.state, `${int(j.step)} steps`, duration(j.seconds), facts.length ? `${facts.length} changed` : ''].filter(Boolean).join(' · '));
    text(state, j.state !== 'queued' ? j.state : j.waits_for ? `waits for run ${j.waits_for.id}` : j.ahead ? `queued, ${j.ahead} ahead` : j.state);
    state.title = j.waits_for ? `${j.waits_for.name}, which is ${j.waits_for.state}` : '';
    el.dataset.state = state.dataset.state = j.state;
    bar.hidden = done || !(j.progress > 0) || !j.steps_total;
    bar.value = Math.min(1, j.progress ?? 0);
    bar.setAttribute('aria-label', `Progress of run ${id}`);
    if (changed.dataset.of !== facts.join()) {
      changed.dataset.of = facts.join();
      changed.title = facts.join('\n');
      fill(changed, facts.slice(0, 3).map((f) => h('code', null, f)), facts.length > 3 ? h('small', null, `+${facts.length - 3}`) : null);
    }
    if (j.state === 'running') grow(j);
    text(norm, j.newest?.drift_norm === null || j.newest?.drift_norm === undefined ? '' : num(j.newest.drift_norm, 3));
    text(steps, done && j.step !== j.steps_total ? int(j.step) : `${int(j.step)} / ${int(stepsTotal(j))}`);
    const speed = j.state === 'running' && j.rate ? j.rate : j.seconds > 0 && j.step ? j.step / j.seconds : 0;
    text(rate, speed ? `${num(speed, 3)} / s` : '');
    text(time, j.state === 'running' && j.eta_seconds ? `${duration(j.eta_seconds)} left` : j.seconds ? duration(j.seconds) : '–');
    if (j.state === 'running' && j.started) stamp(when, j.started, `since ${ago(j.started).replace(' ago', '')}`);
    else stamp(when, j.ended ?? j.created);
    for (const [action, b] of Object.entries(buttons)) b.hidden = !host.can[action](j.state);
    opener.setAttribute('aria-label', `Details of run ${id}`);
    mark();
    if (going && j.sample) show(j.sample);
    detail?.update(j);
  }
  function mark() {
    pick.checked = host.picked(id);
    el.classList.toggle('chosen', pick.checked);
  }
  function toggle(open = more.hidden) {
    more.hidden = !open;
    opener.setAttribute('aria-expanded', String(open));
    if (open && !detail) { detail = details(id, host); fill(more, h('td', null, detail.el)); }
    if (!open) return;
    more.firstChild.colSpan = narrow.matches ? 4 : 9; // the columns that are shown
    if (narrow.matches) detail.actions.prepend(...Object.values(buttons)); // the row has no room for them
    else acts.prepend(...Object.values(buttons));
    detail.update(jobs.get(id));
  }
  update();
  return { el, update, mark, look, values, again, toggle,
    sample(d) { const j = jobs.get(id); if (j) { j.sample = `/v1/samples/${d.id}.png`; if (asked) show(j.sample); } },
    close() { if (url) URL.revokeObjectURL(url); } };
}

// The opened part.
function details(id, host) {
  const cells = {}, stat = (key, label, tag = 'b') => h('div.stat', null, h('span', null, label), (cells[key] = h(tag)));
  const stats = h('div.stats', null, stat('loss', 'loss'), stat('norm', 'drift norm'), stat('rate', 'steps / s'), stat('took', 'time trained'), stat('left', 'time left'), stat('created', 'created', 'time'), stat('ended', 'ended', 'time'), stat('attempts', 'starts'));
  const error = h('p.error', { hidden: true }), facts = h('ul.facts'), none = h('p.sub');
  const name = h('input', { type: 'text', maxlength: '200', id: `name-${id}` });
  const notes = h('textarea', { rows: '3', id: `notes-${id}` });
  const priority = h('input', { type: 'number', min: '-1000', max: '1000', step: '1' });
  const turn = h('label.field', { hidden: true }, h('span', null, 'Priority'), priority, h('small', null, 'Of the queued runs the highest goes first, then the oldest.'));
  const remove = h('button.danger', { type: 'button', 'aria-label': `Delete run ${id}`, onclick: () => host.act(jobs.get(id), 'remove') }, 'Delete');
  const actions = h('div.run-actions', null, h('a.button', { href: `#/curves?runs=${id}` }, 'Curves'), h('a.button', { href: `#/samples?job=${id}` }, 'Samples'),
      h('button', { type: 'button', 'aria-label': `Settings of run ${id} beside its recipe`, onclick: () => host.compare(jobs.get(id)) }, 'Beside the recipe'),
      h('button', { type: 'button', 'aria-label': `Duplicate run ${id} with changes`, onclick: () => host.duplicate(jobs.get(id)) }, 'Duplicate …'), h('span.spacer'), remove);
  const el = h('div.detail', null, error, stats,
    h('div.detail-split', null,
      h('div', null, h('h2.minor', null, 'Changed from the recipe'), none, facts),
      h('div.detail-edit', null, h('label.field', { for: `name-${id}` }, h('span', null, 'Name'), name), h('label.field', { for: `notes-${id}` }, h('span', null, 'Notes'), notes), turn)),
    actions);

  function stored(el2, key, of) {
    saves(el2, () => send('PATCH', `/v1/jobs/${id}`, { [key]: of() }), (job) => {
      remember(job);
      toast(`Saved: ${key} of run ${id}.`);
      if (key === 'priority') loadJobs().catch((e) => toast(e.message, true)); // others wait for more or fewer now
    });
  }
  stored(name, 'name', () => name.value.trim());
  stored(notes, 'notes', () => notes.value);
  stored(priority, 'priority', () => {
    if (!priority.checkValidity() || priority.value === '') throw new Error('The priority is a whole number from -1000 to 1000.');
    return +priority.value;
  });
  const put = (el2, v) => { if (document.activeElement !== el2 && !unsaved(el2) && el2.value !== v) el2.value = v; };
  function update(j) {
    const speed = j.state === 'running' && j.rate ? j.rate : j.seconds > 0 && j.step ? j.step / j.seconds : null;
    text(cells.loss, num(j.newest?.loss));
    text(cells.norm, num(j.newest?.drift_norm));
    text(cells.rate, num(speed, 3));
    text(cells.took, duration(j.seconds));
    text(cells.left, j.state === 'running' ? duration(j.eta_seconds) : '–');
    stamp(cells.created, j.created);
    stamp(cells.ended, j.ended);
    text(cells.attempts, int(j.attempts));
    error.hidden = !j.error;
    text(error, j.error ?? '');
    put(name, j.name ?? '');
    put(notes, j.notes ?? '');
    put(priority, String(j.priority ?? 0));
    turn.hidden = j.state !== 'queued';
    const list = Object.entries(j.changed ?? {});
    none.hidden = list.length > 0;
    text(none, j.changed ? `Nothing: the recipe ${j.recipe} as it is.` : 'Not known of this run.');
    if (facts.children.length !== list.length) fill(facts, list.map(([k, v]) => h('li', null, h('code', null, k), ' ', value(v))));
    remove.hidden = !host.can.remove(j.state);
  }
  return { el, actions, update };
}
