// The dialog that starts a run: a recipe, and its values as fields made from the configuration schema.
// Only changed values are sent, as overrides. Another recipe keeps what has been edited; `from` is a run
// whose settings are filled in.
import { get, post } from './api.js';
import { jobDetail, remember } from './state.js';
import { h, fill, toast, field, text, int } from './ui.js';

const common = ['train.steps', 'train.minutes', 'train.seed', 'optim.lr', 'loss.temperatures', 'train.alpha_max', 'encoder.objective', 'encoder.batch', 'samples.every'];
const at = (o, path) => path.split('.').reduce((v, k) => v?.[k], o);

function control(f, value, changed) {
  const id = `f-${f.path.replaceAll('.', '-')}`;
  const props = { id, name: f.path, oninput: changed };
  if (f.type === 'boolean') return h('input', { ...props, type: 'checkbox', checked: !!value });
  if (f.type === 'enum') return h('select', props, f.values.map((v) => h('option', { value: v, selected: v === value }, v)));
  if (f.type === 'integer' || f.type === 'number')
    return h('input', { ...props, type: 'number', min: f.min, max: f.max, step: f.type === 'integer' ? '1' : 'any', value: String(value), inputmode: 'decimal' });
  return h('input', { ...props, type: 'text', maxlength: f.max_length, value: Array.isArray(value) ? value.join(', ') : String(value ?? '') });
}

// own: what stands for an empty number, the recipe's value.
function read(f, el, own) {
  if (f.type === 'boolean') return el.checked;
  if (f.type === 'integer' || f.type === 'number') return el.value === '' ? own : Number(el.value);
  if (f.type === 'list') return el.value.split(/[\s,]+/).filter(Boolean).map(Number);
  return el.value;
}

export async function openForm({ from = null } = {}) {
  let schema, recipes, source = null;
  try {
    [schema, recipes, source] = await Promise.all([get('/v1/configs/schema'), get('/v1/configs').then((c) => c.configs), from ? jobDetail(from.id) : null]);
  } catch (e) { toast(e.message, true); return; }
  let config = {}, controls = new Map();
  const own = source && !recipes.some((r) => r.name === source.recipe && !r.error); // its recipe is not here: the whole configuration is sent
  const about = h('p.about'), errors = h('div.form-errors', { role: 'alert' }), basics = h('div.fields'), rest = h('div.field-groups');
  const changedNote = h('p.changed', { 'aria-live': 'polite' }, '');
  const name = h('input', { type: 'text', maxlength: '200', placeholder: 'optional', autocomplete: 'off', value: from?.name && from.name !== from.recipe ? from.name : '' });
  const priority = h('input', { type: 'number', min: '-1000', max: '1000', step: '1', value: String(from?.priority ?? 0) });
  const search = h('input', { type: 'search', placeholder: 'Filter settings', 'aria-label': 'Filter settings', oninput: () => {
    const q = search.value.toLowerCase();
    for (const g of rest.children) {
      let any = false;
      for (const l of g.querySelectorAll('label')) { l.hidden = !l.textContent.toLowerCase().includes(q); any ||= !l.hidden; }
      g.hidden = !any;
    }
  } });
  const recipe = h('select', { autofocus: true, onchange: () => choose(recipe.value) }, own ? h('option', { value: '' }, `configuration of run ${from.id}`) : null, recipes.map((r) => h('option', { value: r.name, disabled: !!r.error, title: r.error ?? '', selected: !own && r.name === source?.recipe }, r.error ? `${r.name} (broken)` : r.name)));
  const keys = new Map(); // idempotency keys by body, of requests that the server has not refused

  const changes = () => {
    const out = {};
    for (const [path, { f, el }] of controls) {
      const own = at(config, path) ?? f.default, v = read(f, el, own);
      if (JSON.stringify(v) !== JSON.stringify(own)) out[path] = v;
    }
    return out;
  };
  const touched = () => {
    const n = Object.keys(changes()).length;
    text(changedNote, n ? `${n} setting${n > 1 ? 's' : ''} changed from the recipe` : '');
  };
  // Into the fields; those that the recipe's kind does not have are dropped. Returns how many were.
  function put(values) {
    let lost = 0;
    for (const [path, v] of Object.entries(values)) {
      const c = controls.get(path);
      if (!c) { lost++; continue; }
      if (c.f.type === 'boolean') c.el.checked = !!v;
      else c.el.value = Array.isArray(v) ? v.join(', ') : String(v);
    }
    return lost;
  }

  let turn = 0, chosen = ''; // chosen: the recipe whose values are shown
  async function choose(which) {
    const mine = ++turn;
    let found;
    fill(errors);
    go.disabled = true;
    try {
      found = which ? await get(`/v1/configs/${encodeURIComponent(which)}`) : source.config;
    } catch (e) {
      if (mine !== turn) return;
      text(errors, e.message);
      recipe.value = chosen;
      go.disabled = !controls.size;
      return;
    }
    if (mine !== turn) return; // another was chosen meanwhile
    const kept = controls.size ? changes() : {};
    config = found;
    chosen = which;
    go.disabled = false;
    const r = recipes.find((x) => x.name === which);
    if (!r) text(about, `All settings of run ${from.id}, ${from.name || from.recipe}.`);
    else text(about, `${r.about.replace(/\.?$/, '.').replace(/^./, (c) => c.toUpperCase())} ${int(r.steps)} steps${r.minutes ? ` or ${r.minutes} minutes, whichever comes first` : ''}, ${r.size > 1 ? `${r.size} × ${r.size} pixels` : 'two dimensions'}, ${r.classes} class${r.classes > 1 ? 'es' : ''}.`);
    controls = new Map();
    const make = (f) => {
      const el = control(f, at(config, f.path) ?? f.default, touched);
      controls.set(f.path, { f, el });
      return field(f.path, el, f.doc);
    };
    const shown = schema.filter((f) => !['name', 'about', 'kind'].includes(f.path) && (f.kind ?? config.kind ?? 'train') === (config.kind ?? 'train'));
    fill(basics, common.map((p) => shown.find((f) => f.path === p)).filter(Boolean).map(make));
    const groups = new Map();
    for (const f of shown.filter((x) => !common.includes(x.path))) {
      const g = f.path.split('.')[0];
      if (!groups.has(g)) groups.set(g, []);
      groups.get(g).push(f);
    }
    fill(rest, [...groups].map(([g, list]) => h('fieldset', null, h('legend', null, g), h('div.fields', null, list.map(make)))));
    const n = Object.keys(kept).length, lost = put(kept);
    if (n) toast(lost ? `${n - lost} of ${n} changed settings are kept; the others do not exist in ${which}.` : `${n} changed setting${n > 1 ? 's are' : ' is'} kept.`);
    touched();
  }

  // Wherever a field is: in the section that is folded, or filtered away.
  function show(el) {
    const section = el.closest('details');
    if (section) {
      section.open = true;
      if (search.value) { search.value = ''; search.oninput(); }
    }
    el.scrollIntoView({ block: 'center' });
    el.focus();
  }

  // Fields with text that the browser cannot read as a number: their value is '', as if they were empty.
  function unread() {
    const bad = [...[...controls].map(([path, { el }]) => [path, el]), ['Priority', priority]].filter(([, el]) => el.validity.badInput);
    fill(errors, bad.map(([path]) => h('p', null, `${path}: not a number`)));
    for (const [, el] of bad) el.setAttribute('aria-invalid', 'true');
    if (bad.length) show(bad[0][1]);
    return bad.length > 0;
  }

  async function submit(e) {
    e.preventDefault();
    for (const el of [priority, ...[...controls.values()].map((c) => c.el)]) el.removeAttribute('aria-invalid');
    if (unread()) return;
    const body = { config: recipe.value || source.config, overrides: changes(), priority: Number(priority.value) || 0 };
    if (name.value.trim()) body.name = name.value.trim();
    const words = JSON.stringify(body);
    if (!keys.has(words)) keys.set(words, crypto.randomUUID?.() ?? String(Math.random()));
    go.disabled = true;
    try {
      const job = await post('/v1/jobs', body, { 'Idempotency-Key': keys.get(words) });
      remember(job);
      toast(`Run ${job.id} is ${job.state}.`);
      dialog.close();
    } catch (err) {
      if (err.status >= 400 && err.status < 500) keys.delete(words); // else the run may have been made: the same key finds it
      const named = (err.errors ?? []).map((x) => ({ path: x.field.replace(/^(overrides|config)\./, ''), message: x.message }));
      const wrong = named.filter((x) => controls.has(x.path));
      const first = wrong[0];
      fill(errors, h('p', null, first && !err.message.includes(first.path) ? `${first.path}: ${err.message}` : err.message), named.length > 1 ? named.map((x) => h('p', null, x.message.includes(x.path) ? x.message : `${x.path}: ${x.message}`)) : null);
      for (const x of wrong) controls.get(x.path).el.setAttribute('aria-invalid', 'true');
      if (first) show(controls.get(first.path).el);
    } finally { go.disabled = false; }
  }

  const go = h('button.primary', { type: 'submit' }, 'Start');
  const dialog = h('dialog.form', { 'aria-labelledby': 'form-title', onclose: () => dialog.remove() },
    h('form', { onsubmit: submit, novalidate: '' },
      h('div.form-head', null, h('h2', { id: 'form-title' }, from ? `Run ${from.id}, with changes` : 'New run'), h('button.quiet', { type: 'button', 'aria-label': 'Close', onclick: () => dialog.close() }, '✕')),
      h('div.form-body', { tabindex: '0', role: 'region', 'aria-label': 'Settings' },
        h('div.fields', null, field('Recipe', recipe), field('Name', name), field('Priority', priority)),
        about, basics,
        h('details', null, h('summary', null, 'All settings'), search, rest)),
      errors,
      h('div.form-foot', null, changedNote, h('span.spacer'), h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel'), go)));
  document.body.append(dialog);
  dialog.showModal();
  const usable = recipes.find((r) => !r.error);
  if (source) {
    await choose(own ? '' : source.recipe);
    const was = {};
    for (const [path, { f }] of controls) {
      const v = at(source.config, path);
      if (v !== undefined && JSON.stringify(v) !== JSON.stringify(at(config, path) ?? f.default)) was[path] = v;
    }
    put(was);
    touched();
  } else if (usable) choose(usable.name);
  else text(errors, 'There is no usable recipe in the configuration folder.');
}
