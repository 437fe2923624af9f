// The runs page: every job with its live state, and the form that starts one.
import { get, post, raw } from './api.js';
import { jobs, on, jobList, loadJobs, remember } from './state.js';
import { h, fill, text, num, int, duration, ago, badge, toast, empty, head, perFrame } from './ui.js';
import { openForm } from './form.js';

const can = {
  pause: (s) => s === 'running' || s === 'queued',
  resume: (s) => s === 'paused' || s === 'stopped' || s === 'interrupted' || s === 'failed',
  stop: (s) => s === 'running' || s === 'queued' || s === 'paused',
  remove: (s) => s === 'completed' || s === 'failed' || s === 'stopped' || s === 'interrupted',
};

async function act(job, action) {
  try {
    if (action === 'remove') {
      if (!confirm(`Delete run ${job.id} (${job.name || job.recipe}) with its metrics, samples and checkpoints?`)) return;
      await raw(`/v1/jobs/${job.id}`, { method: 'DELETE' });
      toast(`Run ${job.id} is deleted.`);
      await loadJobs();
    } else {
      remember(await post(`/v1/jobs/${job.id}/${action}`));
    }
  } catch (e) { toast(e.message, true); }
}

// The last values of a run, until the stream sends newer ones.
async function lastValues(j) {
  if (j.newest || !j.step || j.asked === j.step || (j.asked && j.state === 'running')) return;
  j.asked = j.step; // rows are stored a little after their step, so ask for a few more
  const d = await get(`/v1/jobs/${j.id}/metrics?names=loss,drift_norm&from=${Math.max(0, j.step - 64)}&max_points=0`);
  const at = (name) => d.series.find((s) => s.name === name)?.rows.at(-1)?.[2] ?? null;
  const now = jobs.get(j.id);
  if (now && !now.newest) now.newest = { step: j.step, loss: at('loss'), drift_norm: at('drift_norm') };
}

// A card per run; made once, updated in place.
function card(id) {
  const name = h('a.run-name'), sub = h('p.sub'), state = h('span.badge'), bar = h('progress', { max: '1', value: '0' });
  const left = h('span'), steps = h('b'), eta = h('b'), norm = h('b'), loss = h('b'), rate = h('b'), error = h('p.error', { hidden: true });
  const buttons = {};
  for (const [action, label] of [['pause', 'Pause'], ['resume', 'Resume'], ['stop', 'Stop'], ['remove', 'Delete']])
    buttons[action] = h('button.quiet', { type: 'button', onclick: () => act(jobs.get(id), action) }, label);
  const stat = (label, b, cls = '') => h(`div.stat${cls}`, null, h('span', null, label), b);
  const el = h('article.run', { data: { run: id } },
    h('div.run-top', null, h('div', null, name, sub), state),
    h('div.run-bar', null, bar),
    h('div.stats', null, stat('step', steps), h('div.stat', null, left, eta), stat('drift norm', norm), stat('loss', loss), stat('steps / s', rate)),
    error,
    h('div.run-actions', null, h('a.button.quiet', { href: `#/curves?runs=${id}` }, 'Curves'), h('a.button.quiet', { href: `#/samples?job=${id}` }, 'Samples'),
      h('span.spacer'), Object.values(buttons)));
  const update = () => {
    const j = jobs.get(id);
    if (!j) return;
    name.href = `#/curves?runs=${id}`;
    text(name, j.name || j.recipe);
    el.setAttribute('aria-label', `Run ${id}, ${j.name || j.recipe}, ${j.state}`);
    bar.setAttribute('aria-label', `Progress of run ${id}`);
    text(sub, `run ${id} · ${j.recipe}${j.data && j.data !== j.recipe ? ` · ${j.data}` : ''} · ${j.state === 'running' && j.started ? `started ${ago(j.started)}` : j.ended ? `ended ${ago(j.ended)}` : `created ${ago(j.created)}`}`);
    text(state, j.state !== 'queued' ? j.state : j.waits_for ? `waits for run ${j.waits_for.id}` : j.ahead ? `queued, ${j.ahead} ahead` : j.state);
    state.title = j.waits_for ? `${j.waits_for.name}, which is ${j.waits_for.state}` : '';
    state.dataset.state = j.state;
    el.dataset.state = j.state;
    const done = j.state === 'completed'; // perhaps before all its steps, by its time limit
    bar.value = done ? 1 : Math.min(1, j.progress ?? 0);
    text(steps, done && j.step !== j.steps_total ? int(j.step) : `${int(j.step)} / ${int(j.steps_total)}`);
    const going = j.state === 'running' || j.state === 'queued';
    text(left, going ? 'time left' : 'took');
    text(eta, duration(going ? j.eta_seconds : j.seconds));
    text(norm, num(j.newest?.drift_norm));
    text(loss, num(j.newest?.loss));
    text(rate, j.state === 'running' && j.rate ? num(j.rate, 3) : j.seconds > 0 && j.step ? num(j.step / j.seconds, 3) : '–');
    error.hidden = !j.error;
    text(error, j.error ?? '');
    for (const [action, b] of Object.entries(buttons)) {
      b.hidden = !can[action](j.state);
      b.setAttribute('aria-label', `${b.textContent} run ${id}`);
    }
  };
  update();
  return { el, update };
}

export function mount(root, params) {
  const cards = new Map(), list = h('div.runs'), off = [];
  const create = h('button.primary', { type: 'button', onclick: () => openForm() }, 'New run');
  fill(root, head('Runs', 'Training jobs of this daemon, newest first.', h('a.button', { href: '#/sweeps' }, 'Sweeps'), create), list);

  const layout = () => {
    const order = jobList();
    if (!order.length) {
      cards.clear();
      fill(list, empty('Nothing has been trained yet', 'Pick a recipe and watch a distribution drift onto the data.',
        h('button.primary', { type: 'button', onclick: () => openForm() }, 'Start the first run')));
      return;
    }
    const had = [...list.children].map((c) => c.dataset?.run).join();
    for (const id of cards.keys()) if (!jobs.has(id)) cards.delete(id);
    for (const j of order) if (!cards.has(j.id)) cards.set(j.id, card(j.id));
    if (had !== order.map((j) => j.id).join()) fill(list, order.map((j) => cards.get(j.id).el));
    for (const c of cards.values()) c.update();
    for (const j of order.slice(0, 50)) lastValues(j).then(() => cards.get(j.id)?.update(), () => {});
  };
  const changed = new Set();
  const paint = perFrame(() => { for (const id of changed) cards.get(id)?.update(); changed.clear(); });
  off.push(on('jobs', layout));
  off.push(on('metrics', (d) => { changed.add(d.job); paint(); }));
  const tick = setInterval(() => { for (const c of cards.values()) c.update(); }, 5000);
  loadJobs().catch((e) => { toast(e.message, true); layout(); });
  if (params.get('new')) openForm();
  return () => { clearInterval(tick); paint.cancel(); for (const f of off) f(); };
}
