// The dialog that starts an evaluation of a checkpoint, or of each checkpoint of a run.
import { get, post } from './api.js';
import { jobs, jobDetail, loadJobs, remember } from './state.js';
import { h, fill, field, int, toast } from './ui.js';

const OTHER = ' other', SAMPLES = '2000';

// Judges that know a data set: recipes that train one, and encoders and judges that exist.
async function judges(data, model, checkpoints, recipes) {
  const fits = recipes.filter((r) => r.kind === 'encoder' && !r.error && (!model?.size || r.size === model.size));
  const whole = await Promise.all(fits.map((r) => get(`/v1/configs/${encodeURIComponent(r.name)}`).catch(() => null)));
  const same = whole.filter((c) => c && (!data || (c.data.set === data.set && (c.data.path ?? '') === (data.path ?? ''))));
  const rank = (c) => (c.encoder?.objective === 'classify' ? 0 : 1);
  return [...same.sort((a, b) => rank(a) - rank(b)).map((c) => [c.name, `${c.name}${rank(c) ? '' : ' – a judge'}, trained first if need be`]),
    ...checkpoints.filter((c) => c.state === 'ok' && (c.net === 'judge' || c.net === 'encoder') && c.model?.arch !== 'inception').map((c) => [`checkpoint:${c.id}`, `checkpoint ${c.id} – ${c.net} ${jobs.get(c.job)?.name ?? c.name}, step ${int(c.step)}`])];
}

// Networks of FID that were imported. torchvision's own Inception is none.
const inceptions = (checkpoints) => checkpoints.filter((c) => c.state === 'ok' && c.model?.arch === 'inception' && c.model.variant !== 'torchvision')
  .map((c) => [`checkpoint:${c.id}`, `checkpoint ${c.id} – ${c.name || 'imported'}`]);

export async function openEvalForm(first = '') {
  let checkpoints, recipes;
  try {
    if (!jobs.size) await loadJobs();
    [checkpoints, recipes] = await Promise.all([get('/v1/checkpoints?limit=500').then((d) => d.checkpoints), get('/v1/configs').then((d) => d.configs)]);
  } catch (e) { toast(e.message, true); return; }
  const own = checkpoints.filter((c) => c.state === 'ok' && (c.net ?? 'generator') === 'generator');
  const trained = [...new Set(own.map((c) => c.job).filter(Boolean))];
  const errors = h('div.form-errors', { role: 'alert' });
  const number = (name, v, min, max) => h('input', { name, type: 'number', min, max, step: '1', value: v, inputmode: 'numeric' });
  const words = (name, v, hint) => h('input', { name, type: 'text', value: v, placeholder: hint ?? null, autocomplete: 'off', spellcheck: 'false' });
  const choice = (name, list, chosen) => h('select', { name }, list.map(([v, t]) => h('option', { value: v, selected: v === chosen }, t)));
  const box = (name, label, on) => h('label.check', null, h('input', { type: 'checkbox', name, checked: on }), label);
  const what = h('select', { name: 'what', autofocus: true, onchange: () => fit() },
    own.map((c) => h('option', { value: `checkpoint ${c.id}`, selected: c.id === first }, `checkpoint ${c.id} – ${jobs.get(c.job)?.name ?? (c.name || 'imported')}, step ${int(c.step)}`)),
    trained.map((id) => h('option', { value: `job ${id}` }, `each checkpoint of ${jobs.get(id)?.name ?? 'run'} (run ${id}, ${int(own.filter((c) => c.job === id).length)})`)));
  const judge = h('select', { name: 'judge', onchange: () => { otherField.hidden = judge.value !== OTHER; } }), other = words('other', '', 'a recipe, checkpoint:7, or a file');
  const otherField = field('Other judge', other), note = h('p.sub');
  const n = number('n', SAMPLES, '16', '10000000'), alpha = words('alpha', '1', '1, 1.5, 2'), seed = number('seed', '0', '0');
  const split = choice('split', [['train', 'training images'], ['test', 'test images']], 'train'), weights = choice('weights', [['ema', 'averaged (EMA)'], ['raw', 'of the last step']], 'ema');
  const metrics = words('metrics', 'all', 'fd,kid'), file = words('inception_file', '', 'inception.safetensors'), fileField = field('Other Inception', file, 'a file below the data directory, or checkpoint:7');
  const inception = choice('inception', [['', 'none'], ...inceptions(checkpoints), [OTHER, 'another …']], '');
  inception.onchange = () => { fileField.hidden = inception.value !== OTHER; };
  fileField.hidden = true;
  const resize = choice('resize', ['clean', 'legacy_pytorch', 'legacy_tensorflow'].map((r) => [r, r]), 'clean');
  const skip = box('skip_existing', 'leave out what has been evaluated in the same way', true), samples = box('samples', 'keep the samples as a file', false);

  let turn = 0;
  async function fit() { // the judges that know the data of what is chosen
    const mine = ++turn, [kind, id] = what.value.split(' '), c = kind === 'job' ? own.find((x) => x.job === id) : own.find((x) => x.id === id);
    const job = c?.job ? await jobDetail(c.job).catch(() => null) : null, list = await judges(job?.config?.data, c?.model, checkpoints, recipes);
    if (mine !== turn) return;
    fill(judge, list.map(([v, t]) => h('option', { value: v }, t)), h('option', { value: '' }, 'none (fid and is alone, from Inception)'), h('option', { value: OTHER }, 'another …'));
    otherField.hidden = true;
    note.hidden = list.length > 0;
    note.textContent = 'No recipe here trains a judge of this data set. Train an encoder of the objective classify on it, or choose an Inception network below.';
  }

  // Fields with text that the browser cannot read as a number: their value is '', as if they were empty.
  function unread() {
    const bad = [['Samples', n], ['Seed', seed]].filter(([, el]) => el.validity.badInput);
    fill(errors, bad.map(([label]) => h('p', null, `${label}: not a number`)));
    for (const [, el] of bad) el.setAttribute('aria-invalid', 'true');
    bad[0]?.[1].focus();
    return bad.length > 0;
  }

  async function submit(e) {
    e.preventDefault();
    for (const el of dialog.querySelectorAll('[aria-invalid]')) el.removeAttribute('aria-invalid');
    if (unread()) return;
    const [kind, id] = what.value.split(' '), scales = alpha.value.split(/[\s,;]+/).filter(Boolean).map(Number);
    const body = { [kind]: id, n: Number(n.value || SAMPLES), alpha: scales.length && scales.every(Number.isFinite) ? scales : alpha.value, seed: Number(seed.value) || 0, split: split.value, weights: weights.value, metrics: metrics.value.trim() || 'all',
      skip_existing: skip.firstChild.checked, samples: samples.firstChild.checked };
    const by = judge.value === OTHER ? other.value.trim() : judge.value;
    if (by) body.judge = by;
    const fid = inception.value === OTHER ? file.value.trim() : inception.value;
    if (fid) Object.assign(body, { inception: fid, resize: resize.value });
    go.disabled = true;
    try {
      const job = await post('/v1/evals', body);
      remember(job);
      toast(`Evaluation ${job.id} is ${job.waits_for ? `queued; it waits for ${job.waits_for.name}` : job.state}.`);
      dialog.close();
    } catch (err) {
      fill(errors, h('p', null, err.message), err.errors?.length > 1 ? err.errors.map((x) => h('p', null, `${x.field}: ${x.message}`)) : null);
      const name = err.errors?.[0]?.field?.replace(/^.*\./, ''), bad = dialog.querySelector(`[name="${CSS.escape({ checkpoint: 'what', job: 'what' }[name] ?? name ?? '')}"]`);
      bad?.setAttribute('aria-invalid', 'true');
      bad?.focus();
    } finally { go.disabled = false; }
  }

  const go = h('button.primary', { type: 'submit', disabled: !own.length }, 'Evaluate');
  const dialog = h('dialog.form', { 'aria-labelledby': 'eval-form-title', onclose: () => dialog.remove() },
    h('form', { onsubmit: submit, novalidate: '' },
      h('div.form-head', null, h('h2', { id: 'eval-form-title' }, 'New evaluation'), h('button.quiet', { type: 'button', 'aria-label': 'Close', onclick: () => dialog.close() }, '✕')),
      h('div.form-body', { tabindex: '0', role: 'region', 'aria-label': 'Settings' },
        h('div.fields.wide-fields', null, field('What', what), field('Judge', judge, 'its features and classes are what is compared; never the encoder that the generator trained with'), otherField),
        note,
        h('div.fields', null, field('Samples', n, `more are slower and surer: 2 000 for a look, 10 000 and more to compare`), field('Guidance scales', alpha, 'one evaluation each, as 1, 1.5, 2'), field('Seed', seed, 'the same seed, the same samples')),
        h('details', null, h('summary', null, 'More settings'), h('div.fields', null, field('Compared with', split), field('Weights', weights), field('Metrics', metrics, 'names with commas, or all'),
          field('Inception', inception, 'imported weights, for fid and is (driftctl import)'), fileField, field('Resize for Inception', resize)), h('div.checks', null, skip, samples))),
      errors,
      h('div.form-foot', null, h('span.spacer'), h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel'), go)));
  document.body.append(dialog);
  dialog.showModal();
  if (own.length) fit();
  else fill(errors, h('p', null, 'There is no checkpoint of a generator yet: train something first.'));
}
