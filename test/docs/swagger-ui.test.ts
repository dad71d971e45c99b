import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Page } from 'playwright-core';
import { REQUEST_EXAMPLES } from '../../src/http/schemas/example.js';
import { readRecorded } from '../../src/http/schemas/recorded.js';
import { seriousFindings } from '../support/browser/accessibility.js';
import { NO_BROWSER, sharedBrowser } from '../support/browser/browser.js';
import { type PrefixProxy, startPrefixProxy } from '../support/processes/prefix-proxy.js';
import { type RunningServer, startServer } from '../support/processes/server.js';

const SCREENSHOTS = fileURLToPath(new URL('../../screenshots/', import.meta.url));
const PREFIX = '/loragrad';
/** However busy the machine is. */
const PATIENCE_MS = 120_000;

let server: RunningServer;
before(async () => {
  server = await startServer({ LORAGRAD_BASE_PATH: PREFIX });
  mkdirSync(SCREENSHOTS, { recursive: true });
});
after(() => server.close());

/** The page, and what it complains of; answers of 4xx are no complaint. */
async function open(url: string): Promise<{ page: Page; complaints: string[] }> {
  const browser = await sharedBrowser();
  const page = await browser.newPage({ viewport: { width: 1280, height: 1600 } });
  page.setDefaultTimeout(PATIENCE_MS);
  const complaints: string[] = [];
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => {
    const expected = /status of 4\d\d/.test(message.text());
    if (message.type() === 'error' && !expected) complaints.push(message.text());
  });
  await page.goto(url);
  return { page, complaints };
}

/** Executes an example of an operation that is unfolded and ready; the status and the body of the answer. */
async function execute(page: Page, tag: string, operation: string, example: string) {
  const route = page.locator(`#operations-${tag}-${operation}`);
  const choice = route.locator('.opblock-section-request-body select.examples-select-element');
  const clear = route.getByRole('button', { name: 'Clear', exact: true });
  if (await clear.isVisible()) await clear.click();
  if (await choice.isVisible()) await choice.selectOption(example);
  await route.getByRole('button', { name: 'Execute', exact: true }).click();
  const answer = route.locator('.live-responses-table');
  await answer.waitFor();
  const status = await answer.locator('.response .response-col_status').first().textContent();
  const code = answer.locator('.response-col_description .highlight-code').first();
  const body = (await code.isVisible()) ? await code.textContent() : '';
  return { status: Number.parseInt(status ?? '', 10), body: body ?? '', answer };
}

const fold = (page: Page, tag: string, operation: string) =>
  page.locator(`#operations-${tag}-${operation} .opblock-summary-control`).click();

async function unfold(page: Page, tag: string, operation: string): Promise<void> {
  const route = page.locator(`#operations-${tag}-${operation}`);
  await fold(page, tag, operation);
  await route.getByRole('button', { name: 'Try it out' }).click();
}

test('Try it out, Execute: every example answers as recorded, the verdict first', {
  skip: NO_BROWSER,
}, async () => {
  const { page, complaints } = await open(`${server.url}/docs`);
  assert.equal(await page.title(), 'loragrad API');
  const { answers } = readRecorded();
  for (const operation of Object.keys(REQUEST_EXAMPLES).sort((a) => (a === 'putTensor' ? -1 : 1))) {
    const tag = operation === 'putTensor' ? 'tensors' : 'gradients';
    await unfold(page, tag, operation);
    for (const example of Object.keys(REQUEST_EXAMPLES[operation])) {
      const { status, body, answer } = await execute(page, tag, operation, example);
      assert.equal(status, answers[operation][example].status, `${operation} ${example}`);
      if (operation === 'gradient' && status === 200) {
        assert.match(body, /^(?:Download)?\s*\{\s*"method"/);
        assert.match(body, /below_threshold/);
        for (const name of Object.keys(answers[operation][example].body as object)) {
          assert.match(body, new RegExp(`"${name}"`));
        }
      }
      if (operation === 'gradient' && example === 'exact') {
        assert.deepEqual(await seriousFindings(page), []);
        await answer.scrollIntoViewIfNeeded();
        await page.screenshot({ path: `${SCREENSHOTS}swagger-ui.png` });
      }
    }
    // The page draws all that is unfolded again with every answer.
    await fold(page, tag, operation);
  }
  assert.deepEqual(complaints, []);
});

test('with keys: the page opens without one, and Authorize hands it on', {
  skip: NO_BROWSER,
}, async () => {
  const key = 'a-key-of-sixteen-and-more';
  const locked = await startServer({ LORAGRAD_API_KEYS: `one:${key}` });
  const { page } = await open(`${locked.url}/docs`);
  await unfold(page, 'gradients', 'gradient');
  assert.equal((await execute(page, 'gradients', 'gradient', 'exact')).status, 401);
  await page.locator('.scheme-container').getByRole('button', { name: 'Authorize' }).click();
  const dialog = page.locator('.dialog-ux');
  await dialog.locator('input').fill(key);
  await dialog.getByRole('button', { name: 'Apply credentials' }).click();
  await dialog.getByRole('button', { name: 'Close' }).last().click();
  assert.equal((await execute(page, 'gradients', 'gradient', 'exact')).status, 200);
  await page.close();
  await locked.close();
});

for (const [name, options] of [
  ['a proxy that announces its prefix', { announce: true }],
  ['a proxy that hands the whole path on', { announce: false, strip: false }],
] as const) {
  test(`below a path, behind ${name}: page, document and Execute work`, {
    skip: NO_BROWSER,
  }, async () => {
    const proxy: PrefixProxy = await startPrefixProxy(server.url, PREFIX, options);
    try {
      for (const path of ['/docs', '/docs/']) {
        const { page, complaints } = await open(proxy.url + path);
        await unfold(page, 'gradients', 'gradient');
        const { status } = await execute(page, 'gradients', 'gradient', 'exact');
        assert.equal(status, 200);
        assert.deepEqual(complaints, []);
        await page.close();
      }
    } finally {
      await proxy.close();
    }
  });
}

test('below a path that nobody announces, addresses are relative to the document', {
  skip: NO_BROWSER,
}, async () => {
  const plain = await startServer();
  const proxy = await startPrefixProxy(plain.url, PREFIX, { announce: false });
  try {
    const { page, complaints } = await open(`${proxy.url}/docs`);
    await unfold(page, 'gradients', 'gradient');
    const { status } = await execute(page, 'gradients', 'gradient', 'exact');
    assert.equal(status, 200);
    assert.deepEqual(complaints, []);
  } finally {
    await proxy.close();
    await plain.close();
  }
});

test('servers of the document: the prefix that is announced, and nothing else that a client writes', async () => {
  const servers = async (prefix: string) => {
    const response = await fetch(`${server.url}/docs/json`, {
      headers: { 'x-forwarded-prefix': prefix },
    });
    return ((await response.json()) as { servers: { url: string }[] }).servers[0].url;
  };
  assert.equal(await servers('/a/b/'), '/a/b');
  for (const foreign of [
    '//evil.example',
    'https://evil.example',
    '/a?b',
    '/<script>',
    '/../..//x',
  ]) {
    assert.equal(await servers(foreign), '..', foreign);
  }
});
