import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Browser } from 'playwright-core';
import { launchBrowser, NO_BROWSER } from '../support/browser.js';
import { type RunningServer, startServer } from '../support/server.js';

const SCREENSHOTS = fileURLToPath(new URL('../../screenshots/', import.meta.url));

let server: RunningServer;
let browser: Browser | undefined;
before(async () => {
  server = await startServer();
  if (!NO_BROWSER) browser = await launchBrowser();
  mkdirSync(SCREENSHOTS, { recursive: true });
});
after(async () => {
  await browser?.close();
  await server.close();
});

test('Try it out, Execute: gradients with the example as it stands', {
  skip: NO_BROWSER,
}, async () => {
  const page = await (browser as Browser).newPage({ viewport: { width: 1280, height: 1600 } });
  const complaints: string[] = [];
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text());
  });

  await page.goto(`${server.url}/docs`);
  const route = page.locator('#operations-gradients-gradient');
  await route.locator('.opblock-summary-control').click();
  await route.getByRole('button', { name: 'Try it out' }).click();
  await route.getByRole('button', { name: 'Execute', exact: true }).click();
  const answer = route.locator('.live-responses-table');
  await answer.waitFor({ timeout: 20_000 });
  await answer.scrollIntoViewIfNeeded();
  await page.screenshot({ path: `${SCREENSHOTS}swagger-ui.png` });

  const status = await answer.locator('.response .response-col_status').first().textContent();
  assert.match(status ?? '', /^\s*200/);
  const body = await answer
    .locator('.response-col_description .highlight-code')
    .first()
    .textContent();
  for (const key of ['lora_A', 'lora_B', 'loss', 'below_threshold'])
    assert.match(body ?? '', new RegExp(key));
  assert.deepEqual(complaints, []);
});
