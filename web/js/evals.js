// The evaluations page: a sortable table of what /v1/evals has; says so while there is nothing.
import { get } from './api.js';
import { h, fill, num, toast, empty, head, ago } from './ui.js';
import { on } from './state.js';

const hidden = new Set(['settings', 'results', 'metrics', 'created']);

// Scalars of the record and of its settings and results side by side.
function flatten(e) {
  const out = {};
  for (const [k, v] of Object.entries(e)) if (!hidden.has(k) && (typeof v !== 'object' || v === null)) out[k] = v;
  for (const part of ['settings', 'results', 'metrics'])
    for (const [k, v] of Object.entries(e[part] ?? {})) if (typeof v !== 'object') out[k] = v;
  if (e.created) out.created = e.created;
  return out;
}

export function mount(root) {
  const box = h('div.card.scroll', { tabindex: '0', role: 'region', 'aria-label': 'Evaluations' });
  fill(root, head('Evaluations', 'Figures of merit by checkpoint and guidance scale.', h('a.button', { href: '/v1/evals.csv', download: 'driftd-evals.csv' }, 'CSV')), box);
  let rows = [], by = 'id', down = true;

  function draw() {
    if (!rows.length) {
      fill(box, empty('No evaluations yet', 'When a checkpoint has been judged, its figures appear here, sortable by any column.'));
      return;
    }
    const cols = [...new Set(rows.flatMap(Object.keys))];
    const sorted = [...rows].sort((a, b) => {
      const x = a[by], y = b[by], nx = Number(x), ny = Number(y);
      const c = !Number.isNaN(nx) && !Number.isNaN(ny) ? nx - ny : String(x ?? '').localeCompare(String(y ?? ''));
      return down ? -c : c;
    });
    fill(box, h('table', null,
      h('thead', null, h('tr', null, cols.map((c) => h('th', { scope: 'col', 'aria-sort': c === by ? (down ? 'descending' : 'ascending') : 'none' },
        h('button.sort', { type: 'button', onclick: () => { down = c === by ? !down : true; by = c; draw(); } }, c))))),
      h('tbody', null, sorted.map((r) => h('tr', null, cols.map((c) => h('td', null,
        typeof r[c] === 'number' ? num(r[c], 5) : c === 'created' ? ago(r[c]) : String(r[c] ?? '–'))))))));
  }
  const load = () => get('/v1/evals?limit=500').then((d) => { rows = (d.evals ?? []).map(flatten); draw(); }, (e) => { toast(e.message, true); draw(); });
  load();
  const off = [on('eval', load), on('refetch', load)];
  return () => off.forEach((f) => f());
}
