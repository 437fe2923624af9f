// A client in a few lines: its types, paths and bodies come from /openapi.json alone. It compiles with
// every check of tsc, or not at all.
import createClient from 'openapi-fetch';
import type { components, paths } from './driftd.js';

const [baseUrl = '', token = ''] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });

const made = await client.POST('/v1/jobs', { body: { config: 'tiny', name: 'by a generated client', priority: 3 } });
if (!made.data) throw new Error(made.error.detail);
let job: components['schemas']['Job'] = made.data;
console.log(`job ${job.id} is ${job.state}`);

for (let i = 0; i < 600 && job.state !== 'completed'; i++) {
  await new Promise((later) => setTimeout(later, 100));
  const { data, error } = await client.GET('/v1/jobs/{id}', { params: { path: { id: job.id } } });
  if (!data) throw new Error(error.detail);
  job = data;
}
if (job.state !== 'completed') throw new Error(`job ${job.id} is ${job.state}: ${job.error ?? ''}`);
const steps: number = job.step;

const { data: list } = await client.GET('/v1/checkpoints', { params: { query: { job: job.id, limit: 1 } } });
const newest = list?.checkpoints[0];
if (!newest) throw new Error('the job left no checkpoint');
const tagged = await client.PATCH('/v1/checkpoints/{id}', { params: { path: { id: newest.id } }, body: { tags: ['mine'] } });
if (tagged.data?.tags[0] !== 'mine') throw new Error('the tag is not there');

const image = await client.GET('/v1/generate', {
  params: { query: { class: '3', seed: 5, checkpoint: 'mine', format: 'png' } }, parseAs: 'arrayBuffer' });
const png = new Uint8Array(image.data as unknown as ArrayBuffer);
if (png[1] !== 0x50 || png[2] !== 0x4e) throw new Error('not a PNG');

const wrong = await client.GET('/v1/generate', { params: { query: { class: '99' } }, parseAs: 'arrayBuffer' });
const problem: components['schemas']['Problem'] | undefined = wrong.error;
console.log(`${steps} steps, a sample of ${png.length} bytes, ${problem?.status}: ${problem?.detail}`);
