// The playground: one request of /v1/generate, set by hand. Every picture can be made again: the seed
// is shown, the request can be copied as curl, and a dropped PNG restores the request that made it.
import { at, get, pages, raw, query, secured } from './api.js';
import { on, jobDetail, latestRun, loadJobs, jobs } from './state.js';
import { h, fill, text, toast, field, head, debounce, download, num, int, clamp, keepInAddress, settle } from './ui.js';
import { parameters, requestOf, shorten } from './png.js';

const SCALES = '1,1.25,1.5,1.75,2,2.5,3,4'; // of a guidance sweep
const MAGNIFIED = 3, STEPS = 12;
const draws = (c) => c.state === 'ok' && (c.net ?? 'generator') === 'generator';

export function mount(root, params) {
  const asked = params.get('cfg') ?? '1.5', several = asked.includes(',');
  // n: images per guidance scale; null: as many as the grid holds. scales: of a sweep.
  const number = (key, none) => (params.has(key) && params.get(key) !== '' && Number.isFinite(+params.get(key)) ? +params.get(key) : none); // 0 is one
  const s = {
    class: params.get('class') ?? '', cfg: several ? 1.5 : number('cfg', 1.5), scales: several ? asked : SCALES, sweep: several,
    seed: number('seed', null) ?? dice(), lock: params.has('seed'), n: +params.get('n') || null,
    cols: clamp(+(params.get('cols') ?? 6) || 6, 1, 1024), rows: clamp(+(params.get('rows') ?? 4) || 4, 1, 1024),
    checkpoint: params.get('checkpoint') ?? 'served', guidance: params.get('guidance') ?? 'one-step', scale: +params.get('scale') || MAGNIFIED,
    weights: params.get('weights') === 'raw' ? 'raw' : 'ema', temperature: number('temperature', null), // null: as trained
    seed2: number('seed2', null), steps: number('steps', STEPS), // a walk, unless seed2 is null
    drawn: null, // {checkpoint, step} of the picture that is being restored
  };
  let closed = false, busy = false, again = false, shown = null, off = [], classes = 0, names = null, toyModel = false, made = null, sized = params.has('cols');

  function dice() { return Math.floor(Math.random() * 2 ** 31); }
  const img = h('img.grid-image', { alt: '' }), caption = h('figcaption', { 'aria-live': 'polite' });
  const figure = h('figure.card.stage', null, img, caption);
  const error = h('p.error', { role: 'alert', hidden: true });
  const note = h('p.sub.note', { role: 'status', hidden: true });
  const split = h('div.split', { role: 'img', 'aria-label': 'no request yet', hidden: true }, h('i.queue'), h('i.compute'), h('i.network'));
  const splitText = h('p.sub.split-text');
  const stage = h('div.stage-box', null, error, figure, note, split, splitText);

  function request(pinned) {
    const scales = s.scales.split(',').length, all = /^0-(\d+)$/.exec(s.class);
    // A sweep has a row of images per scale; over all classes one of each in it.
    const cols = s.sweep && s.n === null && all ? +all[1] + 1 : s.cols, rows = s.sweep && s.n === null ? scales : s.rows;
    const walk = s.seed2 !== null;
    return query({ class: s.class || 'random', cfg: s.sweep ? s.scales : s.cfg, seed: s.seed,
      n: s.n ?? (walk ? rows : s.sweep ? cols : cols * rows), checkpoint: pinned ?? s.checkpoint, grid: walk ? null : `${cols}x${rows}`, scale: s.scale, ...unusual() });
  }
  // What differs from the usual.
  function unusual() {
    return { guidance: s.guidance === 'one-step' ? null : s.guidance, weights: s.weights === 'ema' ? null : s.weights, temperature: s.temperature, seed2: s.seed2, steps: s.seed2 === null ? null : s.steps };
  }
  // The same bytes again need the id that made them: what a word stands for changes.
  const curl = () => `curl -X POST ${secured() ? '-H "Authorization: Bearer $DRIFTD_TOKEN" ' : ''}'${at('/generate')}?${request(made)}' -o driftd.png`;
  function copyCurl() {
    const what = made ? `The curl command is copied; it names checkpoint ${made}.` : 'The live run changes with every step: this command will give another picture.';
    const done = () => toast(secured() ? `${what} It takes the token from $DRIFTD_TOKEN.` : what);
    if (navigator.clipboard) navigator.clipboard.writeText(curl()).then(done, () => prompt('curl', curl()));
    else prompt('curl', curl());
  }

  function wrong(e) {
    if (closed) return;
    error.hidden = false;
    text(error, e.message);
  }
  async function generate() {
    if (busy) { again = true; return; }
    busy = true;
    root.dataset.busy = 'true';
    const began = performance.now();
    try {
      const res = await raw(`/v1/generate?${request()}`, { headers: { Accept: 'image/png' } });
      const blob = await res.blob(), total = performance.now() - began;
      if (closed) return;
      const head = (k) => res.headers.get(`Driftd-${k}`);
      if (img.src) URL.revokeObjectURL(img.src);
      shown = blob;
      img.src = URL.createObjectURL(blob);
      const scales = s.sweep ? s.scales.replaceAll(',', ', ') : '';
      img.alt = `generated images, class ${s.class || 'random'}, guidance ${scales || s.cfg}, seed ${head('Seed')}`;
      img.dataset.seed = head('Seed');
      made = /^\d+$/.test(head('Checkpoint')) ? head('Checkpoint') : null;
      error.hidden = true;
      note.hidden = !head('Note');
      text(note, head('Note') ?? '');
      text(caption, `checkpoint ${head('Checkpoint')} · step ${int(+head('Step'))} · seed ${head('Seed')}${scales ? ` · rows: guidance ${scales}` : ''}${s.seed2 === null ? '' : ` · rows: from seed ${s.seed} to ${s.seed2} in ${s.steps} steps`}`);
      times(+head('Queue-Ms'), +head('Compute-Ms'), total, head('Batch-Size'));
      if (s.drawn && (s.drawn.checkpoint !== head('Checkpoint') || s.drawn.step !== +head('Step')))
        toast(`The picture was made by ${s.drawn.checkpoint} at step ${int(s.drawn.step)}; these are other weights.`);
      s.drawn = null;
      keepInAddress('play', query({ class: s.class, cfg: s.sweep ? s.scales : s.cfg, seed: s.seed, n: s.n, cols: s.cols, rows: s.rows,
        scale: s.scale === MAGNIFIED ? null : s.scale, checkpoint: s.checkpoint, ...unusual() }));
    } catch (e) {
      wrong(e);
    } finally {
      busy = false;
      root.dataset.busy = 'false';
      if (again && !closed) { again = false; generate(); }
    }
  }
  function times(queue, compute, total, batch) {
    const net = Math.max(0, total - queue - compute), sum = queue + compute + net || 1;
    const [a, b, c] = split.children;
    a.style.width = `${(100 * queue) / sum}%`;
    b.style.width = `${(100 * compute) / sum}%`;
    c.style.width = `${(100 * net) / sum}%`;
    const words = `queue ${num(queue, 3)} ms · compute ${num(compute, 3)} ms · transfer and page ${num(net, 3)} ms · batch of ${batch}`;
    split.setAttribute('aria-label', words);
    text(splitText, words);
    split.hidden = false;
  }
  const soon = debounce(generate, 60);

  // ---- controls ----

  const classBox = h('div.classes', { role: 'group', 'aria-label': 'Class' });
  function classList() {
    const make = (value, label) => h('button.chip', { type: 'button', 'aria-pressed': String(s.class === value), data: { class: value },
      title: label, onclick: () => {
        s.class = value;
        if (value.includes('-')) allRows();
        for (const b of classBox.children) b.setAttribute('aria-pressed', String(b.dataset?.class === value));
        generate();
      } }, h('span', null, label));
    if (classes > 60) {
      fill(classBox, h('input', { type: 'number', min: '0', max: String(classes - 1), placeholder: 'random', 'aria-label': 'Class', value: s.class, oninput: (e) => { s.class = e.target.value; soon(); } }));
      return;
    }
    const list = Array.from({ length: classes }, (_, i) => make(String(i), names?.[i] ?? String(i)));
    fill(classBox, make('', 'random'), list, classes > 1 ? make(`0-${classes - 1}`, 'all') : null);
  }
  function allRows() { // one row per class
    if (classes > 32 || s.sweep) return;
    s.rows = classes;
    s.n = null;
    rows.value = String(classes);
  }
  // What was chosen for a model of `before` classes (0: none), for one that may have others: all of them stay
  // all, what this one does not have becomes random.
  function fitClass(before) {
    if (!classes) return;
    const all = (n) => `0-${n - 1}`, has = (raw) => {
      const word = raw.trim(), last = /^(?:\d+-)?(\d+)$/.exec(word);
      return (last && +last[1] < classes) || (names === null ? !last : names.some((n) => n.toLowerCase() === word.toLowerCase())) || word === 'random';
    };
    if (before !== classes && (before ? s.class === all(before) : /^0-\d+$/.test(s.class) && !has(s.class))) {
      s.class = classes > 1 ? all(classes) : '';
      if (s.class) allRows();
    } else if (s.class !== '' && !s.class.split(',').every(has)) s.class = '';
  }
  const cfgOut = h('output', null, s.cfg.toFixed(2));
  const cfg = h('input', { type: 'range', min: '0', max: '5', step: '0.05', value: String(s.cfg), 'aria-label': 'Guidance scale',
    oninput: () => { s.cfg = +cfg.value; text(cfgOut, s.cfg.toFixed(2)); soon(); } });
  // A seed; what the browser cannot read as a number, whose value is '', leaves the one before.
  const typed = (el, before) => (el.validity.badInput ? before : Math.max(0, Math.floor(+el.value || 0)));
  const seed = h('input', { type: 'number', min: '0', step: '1', value: String(s.seed), 'aria-label': 'Seed', oninput: () => { s.seed = typed(seed, s.seed); soon(); } });
  const lock = h('button', { type: 'button', 'aria-pressed': String(s.lock), title: 'Keep the seed for every image', onclick: () => { s.lock = !s.lock; lock.setAttribute('aria-pressed', String(s.lock)); } }, 'Lock');
  const roll = () => { s.seed = dice(); seed.value = String(s.seed); };
  const die = h('button', { type: 'button', title: 'Another seed', onclick: () => { roll(); generate(); } }, 'Dice');
  const size = (key) => h('input', { type: 'number', min: '1', max: '32', value: String(s[key]), 'aria-label': key === 'cols' ? 'Columns' : 'Rows', oninput: (e) => { sized = true; s.n = null; s[key] = clamp(Math.floor(+e.target.value) || 1, 1, 32); soon(); } });
  const cols = size('cols'), rows = size('rows');
  const checkpoint = h('select', { onchange: () => { s.checkpoint = checkpoint.value; describe().then(generate).catch(wrong); } });
  const sweep = h('input', { type: 'checkbox', checked: s.sweep, onchange: () => { s.sweep = sweep.checked; s.scales = SCALES; s.n = null; if (s.sweep) s.seed2 = null; showMore(); generate(); } });
  const twoPass = h('input', { type: 'checkbox', checked: s.guidance === 'two-pass', onchange: () => { s.guidance = twoPass.checked ? 'two-pass' : 'one-step'; generate(); } });
  const weights = h('select', { onchange: () => { s.weights = weights.value; generate(); } }, [['ema', 'averaged, as served'], ['raw', 'as trained']].map(([v, t]) => h('option', { value: v }, t)));
  const heat = h('input', { type: 'range', min: '0', max: '2', step: '0.05', 'aria-label': 'Temperature', oninput: () => { s.temperature = +heat.value === 1 ? null : +heat.value; text(heatOut, (+heat.value).toFixed(2)); soon(); } }), heatOut = h('output');
  const walk = h('input', { type: 'checkbox', onchange: () => { s.seed2 = walk.checked ? dice() : null; s.n = null; if (walk.checked) s.sweep = sweep.checked = false; showMore(); generate(); } });
  const seed2 = h('input', { type: 'number', min: '0', step: '1', oninput: () => { s.seed2 = typed(seed2, s.seed2); soon(); } });
  const steps = h('input', { type: 'number', min: '2', max: '256', step: '1', oninput: () => { s.steps = clamp(Math.floor(+steps.value) || 2, 2, 256); soon(); } });
  const ends = h('div.line', null, field('To', seed2), field('Images per row', steps));
  const more = h('details', null, h('summary', null, 'Weights, temperature, walk'), h('div.play-more', null, field('Weights', weights), h('label.field', null, h('span.line', null, 'Temperature of the noise', heatOut), heat),
    h('label.check', null, walk, 'walk to another seed, one row per image'), ends));
  function showMore() {
    weights.value = s.weights;
    heat.value = String(s.temperature ?? 1);
    text(heatOut, (s.temperature ?? 1).toFixed(2));
    walk.checked = s.seed2 !== null;
    ends.hidden = s.seed2 === null;
    seed2.value = String(s.seed2 ?? '');
    steps.value = String(s.steps);
    cols.disabled = s.seed2 !== null; // a walk has its own
    if (s.weights !== 'ema' || s.temperature !== null || s.seed2 !== null) more.open = true;
  }
  showMore();
  const go = h('button.primary.wide', { type: 'button', onclick: () => { if (!s.lock) roll(); generate(); } }, 'Generate');
  const file = h('input.sr', { type: 'file', accept: 'image/png', 'aria-label': 'PNG whose parameters to restore', onchange: () => { if (file.files[0]) restore(file.files[0]); file.value = ''; } });
  const controls = h('div.card.play-controls', null,
    field('Checkpoint', checkpoint), h('div.field', null, h('span', null, 'Class'), classBox),
    h('label.field', null, h('span.line', null, 'Guidance scale', cfgOut), cfg),
    h('div.field', null, h('span', null, 'Seed'), h('div.line', null, seed, lock, die)),
    h('div.field', null, h('span', null, 'Columns × rows'), h('div.line', null, cols, rows)),
    h('label.check', null, sweep, 'guidance sweep, one row per scale'), h('label.check', null, twoPass, 'two-pass guidance'), more,
    go,
    h('div.line.wrap', null,
      h('button', { type: 'button', onclick: copyCurl }, 'Copy as curl'),
      h('button', { type: 'button', onclick: () => shown && download(shown, `driftd-${img.dataset.seed}.png`) }, 'Save PNG'),
      h('label.button', null, 'Restore from PNG', file)));
  fill(root, head('Playground', 'One forward pass per image. Drop a PNG made by driftd to make it again.'), h('div.play', null, controls, stage));

  // ---- restoring ----

  // A checkpoint that can draw, by its id or a tag, however old it is; null: there is none.
  async function find(name) {
    if (/^\d+$/.test(name)) {
      const c = await get(`/v1/checkpoints/${name}`).catch((e) => { if (e.status !== 404) throw e; });
      return c && draws(c) ? c : null;
    }
    for await (const page of pages('/v1/checkpoints')) {
      const c = page.checkpoints.find((x) => draws(x) && x.tags?.includes(name));
      if (c) return c;
    }
    return null;
  }
  // Whether the server still has a checkpoint; one beyond the list is added to the choice.
  async function has(name) {
    if ([...checkpoint.options].some((o) => o.value === name)) return true;
    const c = await find(name);
    if (c) checkpoint.append(h('option', { value: name }, `${name} – step ${int(c.step)}`));
    return c !== null;
  }

  async function restore(blob) {
    try {
      const p = await parameters(new Uint8Array(await blob.arrayBuffer()));
      const q = requestOf(p), known = await has(q.checkpoint);
      if (q.grid) [s.cols, s.rows] = q.grid.split('x').map(Number);
      else s.rows = q.n; // a walk
      s.sweep = q.cfg.includes(',');
      if (s.sweep) s.scales = q.cfg;
      else s.cfg = +q.cfg;
      Object.assign(s, { seed: q.seed, class: shorten(q.class.split(',')).join(','), n: q.n, scale: q.scale, guidance: q.guidance, lock: true,
        weights: q.weights ?? 'ema', temperature: q.temperature ?? null, seed2: q.seed2 ?? null, steps: q.steps ?? STEPS });
      if (known) s.checkpoint = q.checkpoint;
      s.drawn = known ? { checkpoint: p.checkpoint, step: p.step } : null;
      sized = true;
      seed.value = String(s.seed); cfg.value = String(s.cfg); text(cfgOut, s.cfg.toFixed(2));
      cols.value = String(s.cols); rows.value = String(s.rows);
      sweep.checked = s.sweep; twoPass.checked = s.guidance === 'two-pass';
      lock.setAttribute('aria-pressed', 'true');
      showMore();
      classes = 0; // what is restored was chosen for this checkpoint, not for the one before
      await describe();
      toast(known ? 'Parameters restored.' : `Parameters restored; its checkpoint ${q.checkpoint} is not kept here, so ${s.checkpoint} is used.`);
      generate();
    } catch (e) { toast(e.message, true); }
  }
  const over = (e) => { e.preventDefault(); root.dataset.drop = 'true'; };
  const left = () => { delete root.dataset.drop; };
  const drop = (e) => { e.preventDefault(); left(); const f = e.dataTransfer?.files?.[0]; if (f) restore(f); };
  addEventListener('dragover', over);
  addEventListener('dragleave', left);
  addEventListener('drop', drop);

  // ---- what can be asked ----

  let turn = 0; // of describe: the last one asked for counts
  async function describe() {
    const mine = ++turn;
    const list = (await get('/v1/checkpoints?limit=100')).checkpoints.filter(draws), wanted = s.checkpoint;
    if (!['served', 'live', 'latest'].includes(wanted) && !list.some((c) => c.id === wanted || c.tags?.includes(wanted))) {
      const older = await find(wanted);
      if (older) list.push(older);
      else if (!closed && s.checkpoint === wanted) {
        s.checkpoint = 'served';
        toast(`No generator is kept here as checkpoint ${wanted}, so the served one is used.`, true);
      }
    }
    const option = (v, t) => h('option', { value: v, selected: v === s.checkpoint }, t);
    const tags = [...new Set(list.flatMap((c) => c.tags ?? []))];
    const served = await get('/v1/served');
    if (served.checkpoint && s.checkpoint === 'served' && !list.some((c) => c.id === served.checkpoint)) {
      const older = await find(served.checkpoint);
      if (older) list.push(older);
    }
    if (mine !== turn) return;
    fill(checkpoint, option('served', `served – ${served.checkpoint ? `checkpoint ${served.checkpoint}` : served.text}`), option('live', 'live – the running run'), option('latest', 'latest – newest on disk'),
      tags.map((t) => option(t, `${t} – newest with this tag`)),
      list.map((c) => option(c.id, `${c.id} – ${jobs.get(c.job)?.name ?? (c.name || 'imported')}, step ${int(c.step)}${c.tags?.length ? `, ${c.tags.join(' ')}` : ''}`)));
    const row = list.find((c) => c.id === (s.checkpoint === 'served' ? served.checkpoint : s.checkpoint) || c.tags?.includes(s.checkpoint)) ?? list[0];
    const newest = latestRun((j) => j.kind !== 'encoder'), running = newest?.state === 'running' ? newest : null;
    const live = s.checkpoint === 'live' || (s.checkpoint === 'served' && served.why === 'live');
    const source = live && running ? running.id : row?.job ?? running?.id;
    const job = source ? await jobDetail(source).catch(() => null) : null;
    if (mine !== turn) return;
    const before = classes;
    classes = job?.config?.data?.classes ?? row?.model?.classes ?? 0;
    names = job?.class_names?.length === classes ? job.class_names : null;
    fitClass(before);
    toyModel = (job?.config?.data?.size ?? row?.model?.size) === 1;
    twoPass.disabled = !(job?.config?.model?.null_class ?? row?.model?.null_class);
    root.classList.toggle('is-toy', toyModel);
    if (toyModel && !sized) { s.cols = s.rows = 24; cols.value = rows.value = '24'; }
    classList();
  }
  settle(root, (async () => {
    if (!jobs.size) await loadJobs().catch(() => {});
    await describe().catch((e) => toast(e.message, true));
    if (!closed) await generate();
  })());
  const news = debounce(() => describe().catch(() => {}), 250); // a tab that was away learns of many at once
  off.push(news.cancel, on('checkpoint', news), on('served', news));
  const anew = () => { if (!closed) describe().then(() => { if (!shown || !error.hidden) generate(); }, () => {}); };
  off.push(on('state', debounce(anew, 1500)), on('refetch', anew));
  return () => {
    closed = true;
    removeEventListener('dragover', over);
    removeEventListener('dragleave', left);
    removeEventListener('drop', drop);
    if (img.src) URL.revokeObjectURL(img.src);
    off.forEach((f) => f());
  };
}
