// A live scatter of a two-dimensional toy: the same noise pushed through the generator again and
// again while it trains, so that every point is one sample and its tail is how it has drifted.
import { raw, query } from './api.js';
import { h, text, int } from './ui.js';
import { npy } from './png.js';

const N = 400, TAIL = 6;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// job(): the toy's job now. Returns {el, stop}.
export function scatter(job) {
  const canvas = h('canvas.scatter', { role: 'img', 'aria-label': 'Samples of the generator in the plane' });
  const note = h('p.sub');
  const history = []; // newest last, Float32Array of x0 y0 x1 y1 ...
  let stopped = false, timer = 0, lastStep = '', half = 1.2;

  function draw() {
    const box = canvas.clientWidth || 480, r = devicePixelRatio || 1;
    if (canvas.width !== Math.round(box * r)) canvas.width = canvas.height = Math.round(box * r);
    const ctx = canvas.getContext('2d'), w = canvas.width;
    const X = (v) => (v / half / 2 + 0.5) * w, Y = (v) => (0.5 - v / half / 2) * w;
    ctx.clearRect(0, 0, w, w);
    ctx.strokeStyle = css('--grid');
    ctx.lineWidth = r;
    for (let v = -Math.floor(half); v <= half; v++) {
      ctx.beginPath(); ctx.moveTo(X(v), 0); ctx.lineTo(X(v), w); ctx.moveTo(0, Y(v)); ctx.lineTo(w, Y(v)); ctx.stroke();
    }
    const now = history[history.length - 1];
    if (!now) return;
    ctx.strokeStyle = css('--run-1');
    ctx.globalAlpha = 0.35;
    ctx.beginPath();
    for (let i = 0; i < now.length; i += 2)
      history.forEach((p, k) => (k ? ctx.lineTo(X(p[i]), Y(p[i + 1])) : ctx.moveTo(X(p[i]), Y(p[i + 1]))));
    ctx.stroke();
    ctx.globalAlpha = 0.85;
    ctx.fillStyle = css('--run-0');
    for (let i = 0; i < now.length; i += 2) {
      ctx.beginPath();
      ctx.arc(X(now[i]), Y(now[i + 1]), 2 * r, 0, 7);
      ctx.fill();
    }
    ctx.globalAlpha = 1;
  }

  async function tick() {
    const j = job();
    let wait = 900;
    try {
      const res = await raw(`/v1/generate?${query({ format: 'npy', n: N, seed: 7, class: 0, cfg: 1, checkpoint: j.state === 'running' ? 'live' : 'latest' })}`);
      const step = res.headers.get('Driftd-Step'), { shape, data } = npy(await res.arrayBuffer());
      if (stopped) return;
      if (shape.length !== 2 || shape[1] !== 2) { text(note, 'The daemon serves another model at the moment.'); return; }
      if (step !== lastStep) {
        history.push(data);
        if (history.length > TAIL) history.shift();
        lastStep = step;
        let far = 0;
        for (const v of data) far = Math.max(far, Math.abs(v));
        if (far * 1.1 > half || far * 2 < half) half = Math.max(0.5, Math.ceil(far * 1.15 * 4) / 4);
        draw();
      }
      text(note, `${N} samples of the same noise at step ${int(+step)}; tails show the drift since the last ${history.length - 1 || 'few'} looks. One square is one unit.`);
      if (j.state !== 'running') wait = 5000;
    } catch (e) {
      text(note, e.message);
      wait = 4000;
    }
    if (!stopped) timer = setTimeout(tick, wait);
  }
  tick();
  return { el: h('section.card.toy', { 'aria-label': 'Live scatter' }, h('h2', null, 'Live scatter'), canvas, note), draw,
    stop() { stopped = true; clearTimeout(timer); } };
}
