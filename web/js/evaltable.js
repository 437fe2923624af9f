// The table of the page Evaluations: one row per run, sortable by each column, with a box to put runs
// side by side. Values with standard errors stand over their floors.
import { h, fill, num, int, when, badge } from './ui.js';
import { describe, differs, done, estimate, finite, overFloor, ratio, runName, value } from './evalrow.js';

const started = { id: true, created: true, best: true }; // first click: greatest first

// host: {defs (metric definitions by name), selected (array of ids), toggle(id), remove(row), sort(name, down)}
export function table(box, host) {
  let by = 'id', down = true;

  function columns(rows) {
    const vary = (f) => new Set(rows.map((r) => JSON.stringify(f(r.settings ?? {})))).size > 1;
    const s = (name) => (r) => r.settings?.[name];
    return [
      ['name', 'run', runName], ['step', 'step', (r) => r.step], ['alpha', 'α', s('alpha')],
      vary((x) => x.n) ? ['n', 'n', s('n')] : null, vary((x) => x.seed) ? ['seed', 'seed', s('seed')] : null,
      vary((x) => x.weights) ? ['weights', 'weights', s('weights')] : null,
      ['group', 'group', (r) => host.letter(r.comparable)],
      ...[...host.defs.keys()].filter((m) => rows.some((r) => r.results?.[m] !== undefined)).map((m) => [m, m.replaceAll('_', ' '), (r) => value(r, m)]),
      ['seconds', 'took', (r) => (done(r) ? r.seconds : null)], ['id', 'when', (r) => Number(r.id)],
    ].filter(Boolean);
  }

  function sorted(rows, of) {
    const missing = (v) => v === null || v === undefined || v === '';
    return [...rows].sort((a, b) => {
      const x = of(a), y = of(b);
      if (missing(x) || missing(y)) return missing(x) - missing(y) || b.id - a.id; // whatever the direction
      const c = typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y));
      return (down ? -c : c) || b.id - a.id;
    });
  }

  function metric(r, m) {
    if (r.results?.[m] === undefined) return h('td.num');
    const f = r.floors?.[m], over = overFloor(r, m), lower = host.defs.get(m)?.better === 'lower';
    return h('td.num', null, h('span', null, estimate(value(r, m), r.errors?.[m])),
      finite(f) ? h('small', null, `floor ${num(f, 3)}${over !== null && lower ? ` · ${ratio(over)} ×` : ''}`) : null);
  }
  function group(r, reference) {
    if (!r.comparable) return h('td');
    const other = r.comparable !== reference?.key, why = other && reference ? differs(r, reference.of) : '';
    return h('td', null, h('span.badge', { title: other ? `not comparable: ${why}` : describe(r), data: { state: other ? 'interrupted' : 'queued' } },
      host.letter(r.comparable), other ? h('span', null, ' not comparable') : null, h('span.sr', null, other ? `: ${why}` : `: ${describe(r)}`)));
  }
  function state(r) {
    const s = host.stateOf(r);
    if (s === 'done') return r.best ? h('span.badge', { data: { state: 'completed' }, title: 'the best of its job' }, 'best') : null;
    const part = s === 'running' && r.progress > 0 ? ` ${Math.floor(100 * r.progress)} %` : '';
    const b = badge(s);
    b.append(part);
    if (r.error) b.title = r.error;
    return b;
  }
  function cell(r, [key, , of], reference) {
    if (key === 'name') return h('th', { scope: 'row' }, h('span.run-cell', null, h('span', { title: runName(r) }, runName(r)), state(r)), r.error ? h('small.why', { title: r.error }, r.error) : null);
    if (key === 'group') return group(r, reference);
    if (key === 'id') return h('td', null, when(r.ended ?? r.created));
    if (key === 'seconds') return h('td.num', null, finite(of(r)) ? `${num(of(r), 3)} s` : '–');
    if (host.defs.has(key)) return metric(r, key);
    const v = of(r);
    return h('td.num', null, v === null || v === undefined ? '–' : key === 'step' || key === 'n' ? int(v) : typeof v === 'number' ? num(v) : v);
  }

  let last = null;
  function draw(rows, reference) {
    last = [rows, reference];
    const cols = columns(rows), at = cols.find(([k]) => k === by) ?? cols.at(-1);
    const focus = document.activeElement?.closest?.('.eval-table') === box ? document.activeElement.dataset : null;
    const left = box.scrollLeft;
    const again = (key) => () => {
      down = key === by ? !down : host.defs.get(key)?.better === 'higher' || !!started[key];
      by = key;
      draw(...last);
    };
    fill(box, h('table', null,
      h('thead', null, h('tr', null, h('th', { scope: 'col' }, h('span.sr', null, 'side by side')), cols.map(([key, label]) => h('th', { scope: 'col', className: host.defs.has(key) ? 'num' : '', 'aria-sort': key === at[0] ? (down ? 'descending' : 'ascending') : 'none' },
        h('button.sort', { type: 'button', data: { col: key }, title: host.defs.get(key)?.help ?? null, onclick: again(key) }, label))), h('th', { scope: 'col' }, h('span.sr', null, 'actions')))),
      h('tbody', null, sorted(rows, at[2]).map((r) => h('tr', { data: { eval: r.id }, className: host.selected.includes(r.id) ? 'chosen' : '' },
        h('td', null, done(r) ? h('input', { type: 'checkbox', checked: host.selected.includes(r.id), data: { pick: r.id }, 'aria-label': `Show evaluation ${r.id} of ${runName(r)}, step ${r.step}`, onchange: () => host.toggle(r.id) }) : null),
        cols.map((c) => cell(r, c, reference)),
        h('td.row-actions', null, host.stateOf(r) === 'running' ? null : h('button.quiet', { type: 'button', data: { drop: r.id }, 'aria-label': `Delete evaluation ${r.id}`, onclick: () => host.remove(r) }, 'Delete')))))));
    box.scrollLeft = left;
    if (focus) for (const k of ['col', 'pick', 'drop']) if (focus[k]) box.querySelector(`[data-${k}="${CSS.escape(focus[k])}"]`)?.focus();
  }
  // A running row's share of work done, without drawing the table again.
  function progress(r) {
    const b = box.querySelector(`[data-eval="${CSS.escape(r.id)}"] .badge`);
    if (b) b.textContent = `running ${Math.floor(100 * r.progress)} %`;
  }
  return { draw, progress };
}
