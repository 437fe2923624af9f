// Settings of runs side by side: the keys in which they differ, or those of one run beside its recipe.
import { get } from './api.js';
import { jobDetail } from './state.js';
import { h } from './ui.js';
import { value } from './runrow.js';

// {optim: {lr: 1}} as Map {"optim.lr" -> "1"}
export function flat(o, prefix = '', out = new Map()) {
  for (const [k, v] of Object.entries(o ?? {})) {
    if (v && typeof v === 'object' && !Array.isArray(v)) flat(v, `${prefix}${k}.`, out);
    else out.set(prefix + k, value(v));
  }
  return out;
}

// Rows [key, values of each] where not all are the same, and how many keys are.
export function differences(list) {
  const keys = [...new Set(list.flatMap((m) => [...m.keys()]))].filter((k) => k !== 'name' && k !== 'about');
  const rows = keys.map((k) => [k, list.map((m) => m.get(k) ?? '–')]).filter(([, v]) => v.some((x) => x !== v[0]));
  return { rows, same: keys.length - rows.length };
}

// A card; `close` is called by its button.
export async function settings(ids, close) {
  const jobs = await Promise.all(ids.map((id) => jobDetail(id)));
  const columns = jobs.map((j) => ({ title: `${j.id} ${j.name || j.recipe}`, map: flat(j.config) }));
  let against = '';
  if (jobs.length === 1) {
    const recipe = await get(`/v1/configs/${encodeURIComponent(jobs[0].recipe)}`).catch(() => null);
    if (recipe) columns.unshift({ title: `recipe ${jobs[0].recipe}`, map: flat(recipe) });
    else against = `There is no recipe ${jobs[0].recipe} here to compare it to.`;
  }
  const { rows, same } = differences(columns.map((c) => c.map));
  const title = jobs.length === 1 ? `Settings of run ${ids[0]}` : `Settings of runs ${ids.join(', ')}`;
  return h('section.card.diff', { 'aria-label': title },
    h('div.panel-head', null, h('h2', { tabindex: '-1' }, title, h('small', null, against || `${rows.length} differ, ${same} are the same`)),
      h('button.quiet', { type: 'button', 'aria-label': 'Close the settings', onclick: close }, '✕')),
    rows.length ? h('div.scroll', { tabindex: '0', role: 'region', 'aria-label': `${title}, table` },
      h('table', null, h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'setting'), columns.map((c) => h('th', { scope: 'col' }, c.title)))),
        h('tbody', null, rows.map(([k, v]) => h('tr', null, h('th', { scope: 'row' }, h('code', null, k)), v.map((x) => h('td', null, x))))))) : null);
}
