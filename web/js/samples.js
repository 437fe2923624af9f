// The samples page: the periodic grids of a run with a scrubber over its steps, and for toys the
// live scatter.
import { get, raw } from './api.js';
import { jobs, on, jobDetail, jobList, loadJobs } from './state.js';
import { h, fill, text, toast, int, ago, empty, head, field, clamp } from './ui.js';
import { scatter } from './scatter.js';

export function mount(root, params) {
  let list = [], at = -1, job = null, playing = 0, closed = false, toy = null, wanted = 0;
  const urls = new Map(), off = [];
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  const pick = h('select', { onchange: () => { location.hash = `#/samples?job=${pick.value}`; } });
  const img = h('img.grid-image', { alt: '' }), caption = h('figcaption', { 'aria-live': 'polite' });
  const figure = h('figure.card', { hidden: true }, img, caption);
  const slider = h('input', { type: 'range', min: '0', max: '0', step: '1', value: '0', 'aria-label': 'Step of the samples', oninput: () => { stop(); show(+slider.value); } });
  const playButton = h('button', { type: 'button', onclick: () => (playing ? stop() : play()) }, 'Play');
  const prev = h('button.icon-button', { type: 'button', 'aria-label': 'Earlier grid', onclick: () => { stop(); show(at - 1); } }, '←');
  const next = h('button.icon-button', { type: 'button', 'aria-label': 'Later grid', onclick: () => { stop(); show(at + 1); } }, '→');
  const bar = h('div.toolbar.scrub', { hidden: true }, playButton, prev, slider, next);
  const strip = h('div.strip', { role: 'group', 'aria-label': 'All grids' });
  const extra = h('div');
  fill(root, head('Samples', 'The same noise through the generator as it trains: scrub to watch the distribution drift.', field('Run', pick)),
    h('div.sample-split', null, h('div.sample-main', null, bar, figure, strip), extra));

  const url = async (s) => {
    if (!urls.has(s.id)) urls.set(s.id, raw(s.url).then((r) => r.blob()).then((b) => URL.createObjectURL(b)));
    return urls.get(s.id);
  };
  async function show(i) {
    if (!list.length) return;
    at = clamp(i, 0, list.length - 1);
    const s = list[at], turn = ++wanted;
    slider.value = String(at);
    slider.setAttribute('aria-valuetext', `step ${s.step}`);
    for (const [k, b] of [...strip.children].entries()) b.setAttribute('aria-pressed', String(k === at));
    try {
      const u = await url(s);
      if (closed || turn !== wanted) return;
      img.src = u;
      img.alt = `Samples of ${job.name || job.recipe} at step ${s.step}`;
      text(caption, `step ${int(s.step)} · ${at + 1} of ${list.length} · ${ago(s.created)}`);
      figure.hidden = false;
    } catch (e) { toast(e.message, true); }
    if (at + 1 < list.length) url(list[at + 1]).catch(() => {});
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
  async function load(follow) {
    const all = [];
    let cursor = '';
    do {
      const d = await get(`/v1/samples?job=${job.id}&limit=500${cursor ? `&cursor=${cursor}` : ''}`);
      all.push(...d.samples);
      cursor = d.next_cursor ?? '';
    } while (cursor && all.length < 5000);
    if (closed) return;
    const last = at < 0 || at === list.length - 1;
    list = all.sort((a, b) => a.step - b.step);
    bar.hidden = list.length < 2;
    slider.max = String(Math.max(0, list.length - 1));
    const thumbs = list.length <= 400 ? list : [];
    fill(strip, thumbs.map((s, i) => h('button.chip', { type: 'button', 'aria-pressed': 'false', onclick: () => { stop(); show(i); } }, int(s.step))));
    if (list.length) { if (last || !follow) show(list.length - 1); else show(at); }
    else fill(extra, toy?.el, toy ? null : empty('No grids yet', 'The first one comes after a few hundred steps.'));
    if (list.length) fill(extra, toy?.el);
  }
  async function begin() {
    if (!jobs.size) await loadJobs();
    if (closed) return;
    const id = params.get('job') ?? (jobList().find((j) => j.state === 'running') ?? jobList()[0])?.id;
    if (!id) { fill(extra, empty('No runs yet', 'Samples appear while a run trains.', h('a.button.primary', { href: '#/runs?new=1' }, 'Start a run'))); return; }
    fill(pick, jobList().map((j) => h('option', { value: j.id, selected: j.id === id }, `${j.id} ${j.name || j.recipe}`)));
    job = await jobDetail(id);
    if (closed) return;
    if (job.config?.data?.size === 1 && job.config?.data?.channels === 2) {
      toy = scatter(() => jobs.get(id) ?? job);
      root.classList.add('is-toy');
    }
    await load(false);
  }
  begin().catch((e) => toast(e.message, true));
  off.push(on('sample', (d) => { if (job && String(d.job) === job.id) load(true).catch(() => {}); }));
  off.push(on('refetch', () => { if (job) load(true).catch(() => {}); }));
  off.push(on('theme', () => toy?.draw()));
  return () => {
    closed = true;
    stop();
    toy?.stop();
    for (const f of off) f();
    for (const u of urls.values()) u.then((x) => URL.revokeObjectURL(x), () => {});
  };
}
