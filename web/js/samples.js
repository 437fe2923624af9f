// The samples page: the periodic grids of a run with a slider over its steps, and for toys the live
// scatter.
import { get, query, raw } from './api.js';
import { jobs, on, jobDetail, jobList, latestRun, loadJobs, trains } from './state.js';
import { h, fill, text, toast, say, int, when, serverNow, empty, head, field, clamp, keepInAddress, perFrame, settle } from './ui.js';
import { scatter } from './scatter.js';

const STATIONS = 12;
const KEPT = 64; // pictures in memory; a grid that is looked at again after as many others is fetched again

export function mount(root, params) {
  let list = [], at = -1, job = null, playing = 0, closed = false, toy = null, wanted = 0, pending = null;
  const urls = new Map(), off = [];
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  const pick = h('select', { onchange: () => address(pick.value, pick2.value === pick.value ? '' : pick2.value) });
  const other = { id: params.get('with') ?? '', list: [], shown: '' }; // the second run, followed step by step
  const pick2 = h('select', { onchange: () => address(pick.value, pick2.value) });
  const address = (one, two) => { location.hash = `#/samples?${query({ job: one, with: two })}`; };
  const img2 = h('img.grid-image', { alt: '' }), caption2 = h('figcaption'), figure2 = h('figure.card', { hidden: true }, img2, caption2);
  const img = h('img.grid-image', { alt: '' }), caption = h('figcaption');
  const figure = h('figure.card', { hidden: true }, img, caption);
  const slider = h('input', { type: 'range', min: '0', max: '0', step: '1', value: '0', 'aria-label': 'Step of the samples', oninput: () => { stop(); show(+slider.value); } });
  const playButton = h('button', { type: 'button', onclick: () => (playing ? stop() : play()) }, 'Play');
  const prev = h('button.icon-button', { type: 'button', 'aria-label': 'Earlier grid', onclick: () => { stop(); show(at - 1, true); } }, '←');
  const next = h('button.icon-button', { type: 'button', 'aria-label': 'Later grid', onclick: () => { stop(); show(at + 1, true); } }, '→');
  const bar = h('div.toolbar.scrub', { hidden: true }, playButton, prev, slider, next);
  const strip = h('div.strip', { role: 'group', 'aria-label': 'Steps of the run' });
  const extra = h('div');
  fill(root, head('Samples', 'The same noise through the generator as it trains: move the slider to watch the distribution drift.', field('Run', pick), field('Beside it', pick2)),
    h('div.sample-split', null, h('div.sample-main', null, bar, h('div.pair', null, figure, figure2)), extra, strip));
  root.classList.toggle('is-pair', !!other.id);

  const drop = (u) => u.then((x) => URL.revokeObjectURL(x), () => {});
  const url = (s) => {
    const u = urls.get(s.id) ?? raw(s.url).then((r) => r.blob()).then((b) => URL.createObjectURL(b));
    if (!urls.has(s.id)) u.catch(() => urls.delete(s.id)); // asked for again the next time
    urls.delete(s.id);
    urls.set(s.id, u); // in the order of their use
    for (const [id, old] of urls) {
      if (urls.size <= KEPT) break;
      if (id === list[at]?.id || id === other.shown || thumbs.has(id)) continue;
      urls.delete(id);
      drop(old);
    }
    return u;
  };
  // aloud: a button asked for it. The slider speaks for itself, and frames that are played are not spoken.
  async function show(i, aloud = false) {
    if (!list.length) return;
    at = clamp(i, 0, list.length - 1);
    const s = list[at], turn = ++wanted;
    slider.value = String(at);
    slider.setAttribute('aria-valuetext', `step ${s.step}`);
    mark();
    try {
      const u = await url(s);
      if (closed || turn !== wanted) return;
      img.src = u;
      img.alt = `Samples of ${job.name || job.recipe} at step ${s.step}`;
      fill(caption, `${other.id ? `${job.id} ${job.name || job.recipe} · ` : ''}step ${int(s.step)} · ${at + 1} of ${list.length} · `, when(s.created));
      figure.hidden = false;
      if (aloud) say(caption.textContent, true);
    } catch (e) { toast(e.message, true); }
    beside(s.step);
    if (at + 1 < list.length) url(list[at + 1]).catch(() => {});
  }
  // The grid of the second run that is nearest to a step.
  async function beside(step) {
    if (!other.list.length) return;
    const s = other.list.reduce((a, b) => (Math.abs(b.step - step) < Math.abs(a.step - step) ? b : a));
    other.shown = s.id;
    try {
      const u = await url(s), j = jobs.get(other.id);
      if (closed || other.shown !== s.id) return;
      img2.src = u;
      img2.alt = `Samples of ${j?.name || j?.recipe || `run ${other.id}`} at step ${s.step}`;
      text(caption2, `${other.id} ${j?.name || j?.recipe || ''} · step ${int(s.step)}`);
      figure2.hidden = false;
    } catch (e) { toast(e.message, true); }
  }
  async function loadOther() {
    if (!other.id) return;
    other.list = await every(other.id);
    if (closed) return;
    if (!other.list.length) toast(`Run ${other.id} has no grids yet.`);
    if (at >= 0) beside(list[at].step);
  }
  function stop() {
    clearInterval(playing);
    playing = 0;
    text(playButton, 'Play');
  }
  function play() {
    text(playButton, 'Stop');
    if (at >= list.length - 1) show(0);
    playing = setInterval(() => { if (at >= list.length - 1) stop(); else show(at + 1); }, still ? 1200 : 260);
  }
  async function every(id) {
    const all = [];
    let cursor = '';
    do {
      const d = await get(`/v1/samples?job=${id}&limit=500${cursor ? `&cursor=${cursor}` : ''}`);
      all.push(...d.samples);
      cursor = d.next_cursor ?? '';
    } while (cursor && all.length < 5000);
    return all.sort((a, b) => a.step - b.step);
  }
  async function load(follow) {
    const all = await every(job.id);
    if (closed) return;
    const last = at < 0 || at === list.length - 1;
    list = all;
    grown();
    if (list.length) { if (last || !follow) show(list.length - 1); else show(at); }
    else if (!toy) fill(extra, empty('No grids yet', `The first one is made at step ${int(job.config?.samples?.every || job.steps_total)}.`));
  }
  // A few grids along the run, so that Tab passes them quickly even if there are many.
  function grown() {
    bar.hidden = list.length < 2;
    slider.max = String(Math.max(0, list.length - 1));
    const n = Math.min(STATIONS, list.length), stations = [...new Set(Array.from({ length: n }, (_, k) => Math.round((k * (list.length - 1)) / Math.max(1, n - 1))))];
    const focused = document.activeElement?.parentElement === strip ? [...strip.children].indexOf(document.activeElement) : -1;
    fill(strip, stations.length > 1 ? stations.map(station) : null);
    const now = new Set(stations.map((i) => list[i].id));
    for (const id of thumbs.keys()) if (!now.has(id)) thumbs.delete(id);
    strip.children[Math.min(focused, n - 1)]?.focus();
    mark();
    if (list.length && extra.firstChild !== (toy?.el ?? null)) fill(extra, toy?.el);
  }
  const thumbs = new Map(); // of the strip, by sample; kept, as it grows often
  function station(i) {
    const s = list[i];
    if (!thumbs.has(s.id)) {
      const pic = h('img', { alt: '' });
      const b = h('button.station', { type: 'button', 'aria-label': `Step ${s.step}`, onclick: () => { stop(); show(+b.dataset.at, true); } }, pic, h('span', null, int(s.step)));
      thumbs.set(s.id, b);
      url(s).then((u) => { pic.src = u; }, () => thumbs.delete(s.id));
    }
    const b = thumbs.get(s.id);
    b.dataset.at = i;
    return b;
  }
  function mark() {
    for (const b of strip.children) b.setAttribute('aria-pressed', String(+b.dataset.at === at));
  }
  // A new grid from the stream; of several in quick succession only the last is shown.
  const arrived = perFrame(() => {
    const last = at < 0 || at === pending.from;
    pending = null;
    if (closed) return;
    grown();
    if (last && !playing) show(list.length - 1);
  });
  function take(d) {
    if (list.length && d.step <= list[list.length - 1].step) { load(true).catch(() => {}); return; } // the run went back to a checkpoint
    pending ??= { from: list.length - 1 };
    list.push({ id: d.id, step: d.step, url: `/v1/samples/${d.id}.png`, created: new Date(1000 * serverNow()).toISOString() });
    arrived();
  }
  // The run that the address names; null, saying why, where there are no grids by that name.
  async function asked() {
    const id = params.get('job');
    if (!id) return null;
    const found = await jobDetail(id).catch((e) => { if (e.status !== 404) throw e; });
    if (found && trains(found)) return found;
    toast(found ? `Run ${id} is an ${found.kind === 'eval' ? 'evaluation' : 'import'}, which makes no grids.` : `There is no run ${id} any more.`, true);
    keepInAddress('samples', query({ with: other.id }));
    return null;
  }
  // The runs to choose from, anew where one has come, gone or got another name; not under a hand that chooses.
  let offered = '';
  function choices() {
    if (closed || !job || (offered && [pick, pick2].includes(document.activeElement))) return;
    const { id } = job, runs = jobList().filter(trains), label = (j) => `${j.id} ${j.name || j.recipe}`;
    if (!runs.some((j) => j.id === id)) runs.unshift(job); // deleted, and still shown
    const words = runs.map(label).join('\n');
    if (words === offered) return;
    offered = words;
    fill(pick, runs.map((j) => h('option', { value: j.id, selected: j.id === id }, label(j))));
    fill(pick2, h('option', { value: '' }, 'none'), runs.filter((j) => j.id !== id).map((j) => h('option', { value: j.id, selected: j.id === other.id }, label(j))));
  }
  pick.onblur = pick2.onblur = choices;
  let beginning = false;
  async function begin() {
    if (beginning) return;
    beginning = true;
    try { await fetched(); } finally { beginning = false; }
  }
  async function fetched() {
    if (!jobs.size) await loadJobs();
    if (closed) return;
    const latest = latestRun((j) => j.kind !== 'encoder' || j.sample) ?? latestRun(); // a judge makes no grids
    job = await asked() ?? (latest ? await jobDetail(latest.id) : null);
    if (closed) return;
    if (!job) { fill(extra, empty('No runs yet', 'Samples appear while a run trains.', h('a.button.primary', { href: '#/runs?new=1' }, 'Start a run'))); return; }
    const { id } = job;
    choices();
    if (!other.id && job.config?.data?.size === 1 && job.config?.data?.channels === 2) {
      toy = scatter(() => jobs.get(id) ?? job);
      root.classList.add('is-toy');
      fill(extra, toy.el);
    }
    await Promise.all([load(false), loadOther()]);
  }
  settle(root, begin());
  off.push(on('sample', (d) => {
    if (job && String(d.job) === job.id) take(d);
    if (String(d.job) === other.id) loadOther().catch(() => {});
  }));
  off.push(on('jobs', () => {
    if (job) choices();
    else if (latestRun()) begin().catch(() => {}); // the first run
  }));
  off.push(on('refetch', () => {
    if (!job) begin().catch((e) => toast(e.message, true));
    else Promise.all([load(true), loadOther()]).catch(() => {});
  }));
  off.push(on('theme', () => toy?.draw()));
  return () => {
    closed = true;
    stop();
    toy?.stop();
    arrived.cancel();
    for (const f of off) f();
    for (const u of urls.values()) drop(u);
  };
}
