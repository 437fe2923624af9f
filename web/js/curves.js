// The curves page: runs, axis, smoothing and range; the panels draw them. The address holds the view,
// so that a link shows the same picture.
import { get, raw, query } from './api.js';
import { jobs, on, colourOf, jobDetail, jobList, latestRun, trains, fewRuns, MOST_BESIDE, loadJobs, active, sayProgress } from './state.js';
import { h, fill, toast, say, perFrame, debounce, download, clamp, num, empty, head, text, keepInAddress, settle } from './ui.js';
import { Panel, runColor, formatX, spansDays } from './panel.js';
import { Run } from './runmodel.js';

const accuracies = { classify: ['accuracy', 'test_accuracy'], autoencode: ['probe_accuracy'], both: ['accuracy', 'test_accuracy', 'probe_accuracy'] };
const objective = (j) => (j.kind === 'encoder' ? j.config?.encoder?.objective : null);
const beside = (j) => j.kind !== 'encoder' && j.config?.features?.kind === 'kde'; // its encoder learns as well
const panels = [
  { key: 'drift_norm', title: 'Drift norm', hint: 'per temperature', lineless: true, alerts: ['collapse', 'gradient'],
    about: 'How far a step would move the samples. A good curve finds its level soon, from above or from below, and stays there. It can rise while samples improve, so judge by samples and evaluations; a jump with an alert is trouble.',
    names: (j) => j.kind === 'encoder' ? [] : ['drift_norm', ...taus(j).map((_, i) => `drift_norm_${i}`)] },
  { key: 'loss', title: 'Loss', names: () => ['loss'] },
  { key: 'accuracy', title: 'Accuracy', optional: true, hint: 'of encoders and judges', names: (j) => accuracies[objective(j)] ?? (beside(j) ? ['encoder_right'] : []) },
  { key: 'losses', title: 'Loss terms', optional: true, hint: 'of encoders', names: (j) => (objective(j) === 'both' ? ['classify_loss', 'autoencode_loss'] : beside(j) ? ['encoder_loss'] : []) },
  { key: 'grad_norm', title: 'Gradient norm', alerts: ['gradient'], names: () => ['grad_norm'] },
  { key: 'lr', title: 'Learning rate', hint: 'as set, not smoothed', names: () => ['lr'] },
  { key: 'step_seconds', title: 'Step time', hint: 'seconds', names: () => ['step_seconds'] },
  { key: 'spread', title: 'Spread', optional: true, alerts: ['collapse'], hint: 'samples over data, within a class', names: () => ['spread', 'spread_min'] },
  { key: 'feature_scale', title: 'Feature scale', more: true, names: () => ['feature_scale'] },
  { key: 'dist', title: 'Distances', hint: 'mean and variance', more: true, names: () => ['dist_mean', 'dist_var'] },
  { key: 'alpha_mean', title: 'Mean guidance', more: true, names: () => ['alpha_mean'] },
];
const windows = [1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];
const taus = (j) => j.config?.loss?.temperatures ?? [];
const dashes = [undefined, [7, 4], [2, 3], [10, 3, 2, 3], [4, 2]];

function label(name, job) {
  const m = /^drift_norm_(\d+)$/.exec(name);
  if (m) return `τ ${taus(job)[+m[1]] ?? m[1]}`;
  return { accuracy: 'training', test_accuracy: 'test', probe_accuracy: 'probe', classify_loss: 'cross-entropy', autoencode_loss: 'masked pixels', encoder_right: 'reals from generated', encoder_loss: 'reals from generated', drift_norm: 'mean', spread_min: 'smallest class', dist_mean: 'mean', dist_var: 'variance' }[name] ?? name.replaceAll('_', ' ');
}

const CHIPS = 40; // the newest runs, offered beside those that are shown
const FAR = 1e12; // neither steps nor dates go further

const short = (j) => `${j.id} ${j.name || j.recipe}`;
const brief = (j) => short(j).replace(/^(.{47}).{2,}$/su, '$1…'); // in a legend, where the value and other lines need room

export function mount(root, params) {
  const view = {
    runs: fewRuns((params.get('runs') ?? '').split(',').filter(Boolean), 'Curves'),
    axis: ['step', 'relative', 'wall'].includes(params.get('x')) ? params.get('x') : 'step',
    window: clamp(+(params.get('w') ?? 20) || 1, 1, 1e6),
    log: params.get('log') === '1', logx: params.get('logx') === '1', more: params.get('more') === '1',
    from: params.has('from') ? +params.get('from') : null, to: params.has('to') ? +params.get('to') : null,
    paused: false, frozen: null,
  };
  const models = (root.models = new Map()); // on the element for tests
  const failed = new Set(); // runs that could not be fetched
  let made = [], off = [], closed = false;
  const box = h('div.panels'), chips = h('div.chips', { role: 'group', 'aria-label': 'Runs shown' });
  const smoothOut = h('output.smooth'), rangeOut = h('output.range'), age = h('output.age');

  // ---- what is visible ----

  const axisOf = (s) => (view.axis === 'step' ? s.x : s.t);
  const offsetOf = (run) => {
    if (view.axis !== 'relative') return 0;
    if (run.t0 === undefined || !Number.isFinite(run.t0)) {
      const s = run.base.get('loss');
      run.t0 = Date.parse(run.job.started ?? '') / 1000;
      if (s?.n && !(run.t0 <= s.t[0])) run.t0 = s.t[0];
    }
    return run.t0 || 0;
  };

  function whole() {
    let a = Infinity, b = -Infinity;
    for (const run of models.values()) {
      const s = run.base.get('loss');
      if (!s?.n) continue;
      a = Math.min(a, axisOf(s)[0] - offsetOf(run));
      b = Math.max(b, axisOf(s)[s.n - 1] - offsetOf(run));
    }
    if (!(b > a)) { a = Number.isFinite(a) ? a : 0; b = a + 1; }
    return [a, b];
  }
  // Views pan and zoom as they are drawn: by factors where the steps are logarithmic. That axis has no
  // end at or below 0.
  const byFactors = () => view.logx && view.axis === 'step';
  const bounded = (v) => clamp(v, byFactors() ? 1 : -FAR, FAR);
  const place = (v) => (byFactors() ? Math.log(bounded(v)) : v);
  const at = (p) => bounded(byFactors() ? Math.exp(p) : p);
  function range() {
    const zoomedIn = view.from !== null && view.to !== null && view.to > view.from;
    const [a, b] = (zoomedIn ? [view.from, view.to] : view.frozen ?? whole()).map(bounded);
    return b > a ? [a, b] : [a, a + 1];
  }

  function stepsOf(run) { // the visible range in steps
    const [a, b] = range();
    if (view.axis === 'step') return [a, b];
    const s = run.base.get('loss'), o = offsetOf(run);
    if (!s?.n) return [0, 0];
    return [s.x[clamp(s.find(a + o, s.t), 0, s.n - 1)], s.x[clamp(s.find(b + o, s.t), 0, s.n - 1)]];
  }

  const host = {
    sync: 'curves',
    view: () => view,
    range,
    say: (m) => say(m, true),
    lines(spec) {
      const lines = [], several = models.size > 1;
      for (const run of models.values()) {
        const own = colourOf(run.job.id, [...models.keys()]);
        const names = spec.names(run.job).filter((n) => several ? n !== 'drift_norm' || taus(run.job).length === 0 : n !== 'drift_norm' || taus(run.job).length !== 1);
        names.forEach((name, k) => {
          const color = runColor(several ? own : own + k);
          lines.push({
            label: several ? `${brief(run.job)}${names.length > 1 ? ` · ${label(name, run.job)}` : ''}` : label(name, run.job),
            color, band: `${color}55`, dash: several ? dashes[k % dashes.length] : undefined,
            series: () => { const [a, b] = view.from === null ? [0, Infinity] : stepsOf(run); return run.series(name, a, b); },
            axis() { return axisOf(this.series()); },
            offset: () => offsetOf(run),
          });
        });
      }
      return lines;
    },
    // Alerts of the runs shown, of the kinds that a panel marks: [{x, label, text}].
    alerts(spec) {
      const marks = [];
      for (const run of spec.alerts ? models.values() : [])
        for (const a of run.alerts ?? []) {
          if (!spec.alerts.includes(a.kind)) continue;
          const s = run.base.get('loss'), i = view.axis === 'step' || !s?.n ? 0 : clamp(s.find(a.step), 0, s.n - 1);
          const x = view.axis === 'step' ? a.step : s?.n ? s.t[i] - offsetOf(run) : NaN;
          marks.push({ x, text: a.text, label: `${models.size > 1 ? `run ${run.job.id}, ` : ''}step ${num(a.step, 6)}, ${a.kind}` });
        }
      return marks.sort((a, b) => a.x - b.x);
    },
    setRange(a, b) {
      [a, b] = [bounded(a), bounded(b)];
      if (!(b > a)) return;
      view.from = a;
      view.to = b;
      settled();
    },
    // By a share of the view `from`.
    pan(share, from = range()) {
      const [a, b] = from.map(place), far = byFactors() ? Math.max(share * (b - a), -a) : share * (b - a);
      host.setRange(at(a + far), at(b + far));
    },
    zoom(factor, centre) {
      const [a, b] = range().map(place), c = centre === undefined ? (a + b) / 2 : place(centre);
      host.setRange(at(c - (c - a) * factor), at(c + (b - c) * factor));
    },
    reset() {
      view.from = view.to = null;
      settled();
    },
    async csv(spec) {
      const [a, b] = range();
      for (const run of models.values()) {
        const names = spec.names(run.job).join(',');
        if (!names) continue; // no names would ask for all metrics
        const cut = view.from === null ? {} : { from: Math.max(0, Math.floor(stepsOf(run)[0])), to: Math.max(0, Math.ceil(stepsOf(run)[1])) };
        try {
          const res = await raw(`/v1/jobs/${run.job.id}/metrics?${query({ names, format: 'csv', ...cut })}`);
          download(await res.blob(), `driftd-${run.job.id}-${spec.key}.csv`);
        } catch (e) { toast(e.message, true); }
      }
      if (!(b > a)) toast('There are no points yet.');
    },
  };

  // ---- drawing ----

  const draw = perFrame(() => {
    for (const p of made) p.draw();
    const [a, b] = range(), dated = spansDays(a, b, view.axis);
    text(rangeOut, `${formatX(a, view.axis, false, dated)} – ${formatX(b, view.axis, false, dated)}`);
    let width = 1;
    for (const run of models.values()) for (const s of run.base.values()) width = Math.max(width, s.width);
    const on = view.window > 1;
    text(smoothOut, on ? `${view.window} steps${width > 1 && view.from === null ? `, over means of ${width}` : ''}` : 'off');
  });
  const rebuild = perFrame(() => {
    for (const p of made) if (p.el.isConnected) p.rebuild();
    draw();
  });
  const refine = debounce(async () => {
    if (view.from === null) return;
    for (const run of models.values()) {
      try { if (await run.refine(...stepsOf(run))) draw(); } catch (e) { toast(e.message, true); }
    }
  }, 180);
  const remember = debounce(() => {
    if (closed) return;
    const q = query({ runs: [...models.keys()].join(','), x: view.axis, w: view.window, log: view.log ? 1 : null,
      logx: view.logx ? 1 : null, more: view.more ? 1 : null,
      from: view.from === null ? null : +view.from.toPrecision(10), to: view.to === null ? null : +view.to.toPrecision(10) });
    keepInAddress('curves', q);
  }, 250);
  function settled() {
    draw();
    refine();
    remember();
    zoomed.hidden = view.from === null;
  }

  function layout() {
    for (const p of made) p.destroy();
    made = panels.filter((s) => view.more || !s.more).map((s) => new Panel(s, host));
    fill(box, made.map((p) => p.el));
    rebuild();
  }

  // ---- runs ----

  async function addRun(id) {
    if (models.has(id)) return;
    try {
      const job = await jobDetail(id);
      if (closed || models.has(id)) return;
      if (models.size >= MOST_BESIDE) { toast(`Curves show ${MOST_BESIDE} runs at most.`); return; }
      const names = [...new Set(panels.flatMap((s) => (s.more && !view.more ? [] : s.names(job))))];
      const run = new Run(job, names, view.window, (loaded) => { if (!models.get(id)?.drawn) { run.drawn = true; rebuild(); } draw(); if (loaded) refine(); });
      models.set(id, run);
      const alerts = get(`/v1/jobs/${id}/alerts`).then((d) => { run.alerts = d.alerts; draw(); }, () => {});
      chipList();
      rebuild();
      await Promise.all([run.load(), alerts]);
    } catch (e) {
      if (!models.has(id) && e.status !== 404) failed.add(id);
      toast(`run ${id}: ${e.message}`, true);
    }
  }
  function dropRun(id) {
    models.get(id)?.close();
    models.delete(id);
    chipList();
    rebuild();
    remember();
  }
  function chipList() {
    const order = [...models.keys()], have = document.activeElement?.dataset?.run;
    const listed = jobList().filter((j) => trains(j) || models.has(j.id)).filter((j, i) => i < CHIPS || models.has(j.id) || j.state === 'running');
    fill(chips, listed.map((j) => {
      const shown = order.indexOf(j.id), colour = colourOf(j.id, order);
      const dot = h('i.dot', { 'aria-hidden': 'true' });
      if (shown >= 0) dot.style.background = runColor(colour);
      return h('button.chip', { type: 'button', 'aria-pressed': String(shown >= 0), title: short(j), data: { run: j.id },
        onclick: () => { if (models.has(j.id)) dropRun(j.id); else addRun(j.id).then(remember); } },
      dot, h('span', null, short(j)), active(j) ? h('span.live-mark', null, j.state) : null);
    }));
    if (have) chips.querySelector(`[data-run="${have}"]`)?.focus();
  }

  // ---- controls ----

  const slider = h('input', { type: 'range', min: '0', max: String(windows.length - 1), step: '1', 'aria-label': 'Smoothing window',
    value: String(Math.max(0, windows.findIndex((w) => w >= view.window))),
    oninput: (e) => {
      view.window = windows[+e.target.value];
      for (const run of models.values()) run.setWindow(view.window);
      e.target.setAttribute('aria-valuetext', view.window > 1 ? `${view.window} steps` : 'off');
      draw(); refine(); remember();
    } });
  const axis = h('select', { 'aria-label': 'Horizontal axis', onchange: (e) => { view.axis = e.target.value; view.from = view.to = view.frozen = null; settled(); rebuild(); } },
    [['step', 'step'], ['relative', 'time since the start'], ['wall', 'clock']].map(([v, t]) => h('option', { value: v, selected: v === view.axis }, t)));
  const check = (name, title, after = rebuild) => h('label.check', null, h('input', { type: 'checkbox', checked: view[name],
    onchange: (e) => { view[name] = e.target.checked; after(); remember(); } }), title);
  const pause = h('button', { type: 'button', 'aria-pressed': 'false', onclick: () => {
    view.paused = !view.paused;
    view.frozen = view.paused && view.from === null ? whole() : null;
    pause.setAttribute('aria-pressed', String(view.paused));
    text(pause, view.paused ? 'Resume live' : 'Pause live');
    draw();
  } }, 'Pause live');
  const zoomBy = (f) => () => host.zoom(f), shift = (f) => () => host.pan(f);
  const zoomed = h('button', { type: 'button', hidden: view.from === null, onclick: host.reset }, 'Show all');
  const tool = (label, title, f) => h('button.icon-button', { type: 'button', 'aria-label': title, title, onclick: f }, label);
  const bar = h('div.toolbar', null,
    h('div.control', null, h('span', null, 'Smoothing'), slider, smoothOut),
    h('div.control', null, h('span', null, 'Axis'), axis),
    check('log', 'log values'), check('logx', 'log steps'),
    check('more', 'more metrics', () => { for (const id of [...models.keys()]) { models.get(id).close(); models.delete(id); addRun(id); } layout(); }),
    h('div.control.end', null, age));
  const pane = h('div.toolbar.pane', null, chips, h('div.control.end', null, rangeOut, tool('←', 'Pan left', shift(-0.25)), tool('→', 'Pan right', shift(0.25)), tool('+', 'Zoom in', zoomBy(0.5)), tool('−', 'Zoom out', zoomBy(2)), zoomed, pause));

  // ---- life ----

  const small = matchMedia('(pointer: coarse), (max-width: 860px)').matches;
  const hint = small ? 'Drag across a plot to zoom.' : 'Drag across a plot to zoom, shift-drag to pan, double-click to reset.';
  fill(root, head('Curves', hint), pane, h('details.fold', { open: !small }, h('summary', null, 'Smoothing and axes'), bar),
    h('p.sr', { id: 'plot-keys' }, 'Arrow keys move the cursor, shift with arrow keys pans, plus and minus zoom, zero shows everything.'), box);

  async function begin() {
    if (!jobs.size) await loadJobs().catch((e) => toast(e.message, true));
    if (closed) return;
    const first = view.runs.length ? view.runs : [latestRun()?.id].filter(Boolean);
    if (!first.length) {
      fill(box, empty('No runs yet', 'Curves appear as soon as a run takes its first steps.', h('a.button.primary', { href: '#/runs?new=1' }, 'Start a run')));
      return;
    }
    layout();
    chipList();
    await Promise.all(first.map((id) => jobDetail(id).catch(() => {}))); // then each gets its colour in order
    await Promise.all(first.map(addRun));
    draw();
    remember();
  }

  let lastRow = 0;
  off.push(on('metrics', (d) => {
    const run = models.get(d.job);
    if (!run) return;
    lastRow = performance.now();
    const fresh = run.lastStep < 0;
    run.take(d);
    if (fresh) rebuild();
    if (!view.paused) { draw(); sayProgress(d.job); }
  }));
  off.push(on('state', (d) => {
    const run = models.get(String(d.job));
    if (!run) return;
    if (d.state === 'running') run.starts();
    else if (d.state !== 'stopping') run.reload(600);
  }));
  off.push(on('alert', (d) => {
    const run = models.get(String(d.job));
    if (run) { (run.alerts ??= []).push(d); draw(); }
  }));
  off.push(on('refetch', () => {
    for (const run of models.values()) run.reload(300);
    const again = [...failed];
    failed.clear();
    Promise.all(again.map(addRun)).then(remember);
  }));
  off.push(on('jobs', () => { for (const id of models.keys()) if (!jobs.has(id)) dropRun(id); })); // deleted
  off.push(on('jobs', (id) => { if (!made.length && jobs.size) begin(); else if (id === undefined || !chips.querySelector(`[data-run="${id}"]`)) chipList(); }));
  off.push(on('theme', () => { chipList(); rebuild(); }));
  off.push(on('state', () => setTimeout(chipList, 0)));
  const clock = setInterval(() => {
    const s = (performance.now() - lastRow) / 1000;
    text(age, lastRow && s < 30 ? `last point ${num(s, 2)} s ago` : '');
  }, 1000);
  settle(root, begin());

  return () => {
    closed = true;
    clearInterval(clock);
    for (const f of off) f();
    for (const p of made) p.destroy();
    for (const run of models.values()) run.close();
    draw.cancel(); rebuild.cancel(); refine.cancel(); remember.cancel();
  };
}
