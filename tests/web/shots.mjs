// Takes the pictures of docs/img from a running daemon. usage:
//   shots.mjs URL NODE_MODULES OUT [PAGE=HASH...]
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { openPage, sleep, tools } from './lib.mjs';

const [url, modules, out, ...pages] = process.argv.slice(2);
const base = new URL(url).origin;
mkdirSync(out, { recursive: true });
const found = tools(modules);
for (const theme of ['light', 'dark'])
  for (const [width, height] of [[1440, 900], [390, 844]]) {
    const { browser, page } = await openPage(found, base, { viewport: { width, height }, colorScheme: theme });
    for (const one of pages) {
      const at = one.indexOf('='), name = one.slice(0, at), hash = one.slice(at + 1);
      await page.goto(`${base}/${hash}`);
      await page.reload();
      await page.waitForLoadState('domcontentloaded');
      await sleep(4000);
      await page.screenshot({ path: join(out, `${name}-${width}-${theme}.png`) });
    }
    await browser.close();
  }
