// The live picture of a two-dimensional toy (Fig. 3 of the paper): the data, the samples of the newest
// training step, and on each sample the drift that the loss computed for it. /v1/jobs/ID/field is
// fetched when the stream reports progress. When a run has ended and its field is gone, the samples
// come from its last checkpoint.
import { get, raw, query } from './api.js';
import { on } from './state.js';
import { h, text, int, num } from './ui.js';
import { npy } from './png.js';

const EVERY = 250; // ms between two requests at least
const N = 400; // samples from a checkpoint
const half = 1.5; // of the plane that is drawn, as on the grids of samples
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// job(): the toy's job now. Returns {el, draw, stop}.
export function scatter(job) {
  const canvas = h('canvas.scatter', { role: 'img', 'aria-label': 'Data, samples and drift in the plane' });
  const note = h('p.sub');
  const key = (cls, label) => h('li', null, h(`i.key.${cls}`, { 'aria-hidden': 'true' }), label);
  const arrowsKey = key('arrow', job().config?.loss?.field === 'learned' ? 'learned drift V' : 'drift V');
  const legend = h('ul.legend', null, key('data', 'data'), key('sample', 'samples'), arrowsKey);
  const el = h('section.card.toy', { 'aria-label': 'Live scatter' }, h('h2', null, 'Live scatter'), legend, canvas, note);
  let shown = null, busy = false, due = 0, timer = 0, stopped = false;

  const resize = new ResizeObserver(() => draw());
  resize.observe(canvas);

  function draw() {
    const box = canvas.clientWidth, r = devicePixelRatio || 1;
    if (!box) return;
    const w = Math.round(box * r);
    if (canvas.width !== w) canvas.width = canvas.height = w;
    const ctx = canvas.getContext('2d');
    const X = (v) => (v / half / 2 + 0.5) * w, Y = (v) => (0.5 - v / half / 2) * w;
    ctx.clearRect(0, 0, w, w);
    ctx.lineWidth = r;
    for (let v = -Math.floor(half * 2) / 2; v <= half; v += 0.5) {
      ctx.strokeStyle = css(v === 0 ? '--axis' : '--line');
      ctx.beginPath(); ctx.moveTo(X(v), 0); ctx.lineTo(X(v), w); ctx.moveTo(0, Y(v)); ctx.lineTo(w, Y(v)); ctx.stroke();
    }
    if (!shown) return;
    dots(ctx, shown.data, 1.7 * r, css('--muted'), 0.4, X, Y);
    if (shown.drift) arrows(ctx, shown.samples, r, X, Y);
    dots(ctx, shown.samples, 2.3 * r, css('--run-0'), 0.9, X, Y);
  }

  function dots(ctx, list, radius, colour, alpha, X, Y) {
    ctx.globalAlpha = alpha;
    ctx.fillStyle = colour;
    ctx.beginPath();
    for (const [x, y] of list) {
      ctx.moveTo(X(x) + radius, Y(y));
      ctx.arc(X(x), Y(y), radius, 0, 7);
    }
    ctx.fill();
    ctx.globalAlpha = 1;
  }

  // From each sample to where the loss sends it, true to scale.
  function arrows(ctx, list, r, X, Y) {
    ctx.strokeStyle = css('--run-1');
    ctx.lineWidth = 1.25 * r;
    ctx.globalAlpha = 0.85;
    ctx.beginPath();
    for (const [x, y, vx, vy] of list) {
      const ax = X(x), ay = Y(y), bx = X(x + vx), by = Y(y + vy), len = Math.hypot(bx - ax, by - ay);
      if (!(len > 1.5 * r)) continue;
      const head = Math.min(4.5 * r, 0.5 * len), ux = (bx - ax) / len, uy = (by - ay) / len;
      ctx.moveTo(ax, ay);
      ctx.lineTo(bx, by);
      ctx.moveTo(bx - head * (ux + 0.6 * uy), by - head * (uy - 0.6 * ux));
      ctx.lineTo(bx, by);
      ctx.lineTo(bx - head * (ux - 0.6 * uy), by - head * (uy + 0.6 * ux));
    }
    ctx.stroke();
    ctx.globalAlpha = 1;
  }

  const outside = (list) => list.filter(([x, y]) => Math.max(Math.abs(x), Math.abs(y)) > half).length;

  const beyond = (list) => (outside(list) ? `; ${outside(list)} samples lie beyond` : '');

  function meanDrift(list) {
    let sum = 0;
    for (const s of list) sum += Math.hypot(s[2], s[3]);
    return list.length ? sum / list.length : 0;
  }

  function take(field) {
    shown = { data: field.data, samples: field.samples, drift: true, step: field.step };
    const mean = meanDrift(field.samples);
    text(note, `Step ${int(field.step)}: ${int(field.samples.length)} samples of the training batch, each with its drift, to scale (mean length ${num(mean, 2)}). Grid lines are half a unit apart${beyond(field.samples)}.`);
    el.dataset.step = field.step;
    el.dataset.drift = mean;
  }

  async function fromCheckpoint() {
    const j = job();
    const list = (await get(`/v1/checkpoints?job=${j.id}&limit=20`)).checkpoints.filter((c) => c.state === 'ok');
    if (!list.length) { text(note, 'Samples and drift appear after the first step.'); return; }
    const best = list.reduce((a, b) => (b.step > a.step ? b : a));
    const res = await raw(`/v1/generate?${query({ format: 'npy', n: N, seed: 7, class: 0, cfg: 1, checkpoint: best.id })}`);
    const { shape, data } = npy(await res.arrayBuffer());
    if (shape.length !== 2 || shape[1] !== 2) throw new Error('that checkpoint is not of a two-dimensional model');
    const samples = Array.from({ length: shape[0] }, (_, i) => [data[2 * i], data[2 * i + 1]]);
    shown = { data: [], samples, drift: false, step: best.step };
    text(note, `${N} samples of the checkpoint at step ${int(best.step)}. The drift is computed while a run trains; this one is over.`);
  }

  async function look() {
    timer = 0;
    if (busy || stopped) return;
    busy = true;
    due = performance.now() + EVERY;
    try {
      try {
        take(await get(`/v1/jobs/${job().id}/field`));
      } catch (e) {
        if (e.status !== 404) throw e;
        if (!shown?.drift) await fromCheckpoint();
      }
      if (!stopped && shown) {
        arrowsKey.hidden = !shown.drift;
        legend.firstChild.hidden = !shown.data.length;
        draw();
      }
    } catch (e) {
      text(note, e.message);
    } finally { busy = false; }
  }
  const soon = () => { if (!timer && !stopped && !document.hidden) timer = setTimeout(look, Math.max(0, due - performance.now())); };
  const mine = (f) => (d) => { if (String(d.job) === job().id) f(); };
  const off = [on('metrics', mine(soon)), on('state', mine(soon)), on('refetch', soon)];
  const visible = () => { if (!document.hidden) soon(); };
  document.addEventListener('visibilitychange', visible);
  look();
  return { el, draw,
    stop() {
      stopped = true;
      clearTimeout(timer);
      resize.disconnect();
      document.removeEventListener('visibilitychange', visible);
      off.forEach((f) => f());
    } };
}
