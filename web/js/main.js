// The shell: navigation, routes in the hash, theme, the event stream. Each page exports
// mount(root, params), which returns a function that removes the page.
import { enterToken, whenTokenWanted } from './api.js';
import { start, emit, server } from './state.js';
import { h, fill, icon, toast, text, ago } from './ui.js';
import * as runs from './runs.js';
import * as curves from './curves.js';
import * as samples from './samples.js';
import * as play from './play.js';
import * as data from './data.js';
import * as evals from './evals.js';
import * as status from './status.js';
import * as checkpoints from './checkpoints.js';
import * as sweeps from './sweeps.js';

const pages = [
  ['runs', 'Runs', runs], ['data', 'Data', data], ['curves', 'Curves', curves], ['samples', 'Samples', samples],
  ['play', 'Playground', play], ['evals', 'Evaluations', evals], ['checkpoints', 'Checkpoints', checkpoints], ['status', 'Status', status],
];
const front = ['runs', 'curves', 'samples', 'play']; // on a phone; the rest is behind More
// Reached from another page, below which they count.
const below = { sweeps: ['runs', 'Sweeps', sweeps] };
const main = document.getElementById('main');
let down = null, current = '';

function route() {
  const [path, search = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const page = below[path] ?? pages.find(([key]) => key === path) ?? pages[0];
  const moved = current !== page[0];
  down?.();
  down = null;
  current = page[0];
  document.title = `${page[1]} · driftd`;
  for (const a of document.querySelectorAll('#nav a')) {
    if (a.dataset.page === page[0]) a.setAttribute('aria-current', 'page');
    else a.removeAttribute('aria-current');
  }
  const root = h(`div.page.page-${below[path] ? path : page[0]}`);
  fill(main, root);
  try {
    down = page[2].mount(root, new URLSearchParams(search));
  } catch (e) {
    toast(e.message, true);
    console.error(e);
  }
  more.toggleAttribute('data-here', !front.includes(page[0]));
  if (moved) scrollTo(0, 0);
}

// ---- theme: the system's, or the one chosen ----

const button = document.getElementById('theme');
const dark = matchMedia('(prefers-color-scheme: dark)');

function theme() {
  const chosen = localStorage.getItem('driftd-theme');
  const now = chosen ?? (dark.matches ? 'dark' : 'light');
  document.documentElement.dataset.theme = now;
  text(button, now === 'dark' ? 'Light mode' : 'Dark mode');
  emit('theme', now);
}

button.addEventListener('click', () => {
  const next = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
  if (next === (dark.matches ? 'dark' : 'light')) localStorage.removeItem('driftd-theme');
  else localStorage.setItem('driftd-theme', next);
  theme();
});
dark.addEventListener('change', theme);

// ---- the token, once its dialog was closed without one, or where it may do too little ----

const enter = document.getElementById('token');
whenTokenWanted((yes) => { enter.hidden = !yes; });
enter.addEventListener('click', async () => {
  if (!await enterToken()) return;
  main.focus(); // the button is gone
  route();
});

const nav = document.getElementById('nav');
const more = h('button.nav-more', { type: 'button', 'aria-expanded': 'false', onclick: () => unfold(!nav.hasAttribute('data-open')) }, icon('more'), h('span', null, 'More'));
function unfold(open) {
  nav.toggleAttribute('data-open', open);
  more.setAttribute('aria-expanded', String(open));
}
fill(nav, pages.map(([key, title]) =>
  h(`a${front.includes(key) ? '' : '.behind'}`, { href: `#/${key}`, data: { page: key } }, icon(key), h('span', null, title))), more);
addEventListener('hashchange', () => unfold(false));
addEventListener('keydown', (e) => { if (e.key === 'Escape') unfold(false); });
document.querySelector('.skip').addEventListener('click', (e) => { e.preventDefault(); main.focus(); });
addEventListener('hashchange', route);
setInterval(() => { for (const t of document.querySelectorAll('time.ago')) text(t, ago(t.dateTime)); }, 15000);
theme();
start();
route();

// For tests: the state of the connection.
window.driftd = { server };
