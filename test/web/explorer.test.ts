/** The explorer page in a browser, against the real service; screenshots land in dist/screenshots. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, readFileSync } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { BrowserContextOptions, Page } from 'playwright-core';
import { seriousFindings } from '../support/browser/accessibility.js';
import { NO_BROWSER, sharedBrowser } from '../support/browser/browser.js';
import { startPrefixProxy } from '../support/processes/prefix-proxy.js';
import { type RunningServer, startServer } from '../support/processes/server.js';

const SCREENSHOTS = fileURLToPath(new URL('../../screenshots/', import.meta.url));
const options = { skip: NO_BROWSER };

let server: RunningServer;
before(async () => {
  server = await startServer();
  mkdirSync(SCREENSHOTS, { recursive: true });
});
after(() => server.close());

/** A page that must not complain, nor ask any other host. */
async function open(url: string, context: BrowserContextOptions = {}) {
  const browser = await sharedBrowser();
  const page = await browser.newPage({ viewport: { width: 1280, height: 1400 }, ...context });
  // However busy the machine is.
  page.setDefaultTimeout(120_000);
  const complaints: string[] = [];
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text());
  });
  page.on('request', (request) => {
    if (!/^(blob|data):/.test(request.url()) && !request.url().startsWith(new URL(url).origin)) {
      complaints.push(`asks ${request.url()}`);
    }
  });
  await page.goto(url);
  return { page, complaints };
}

/** Gives up what the page shows by itself. It takes longer than what is asked for here, and is waited for where keys are. */
async function giveUp(page: Page): Promise<void> {
  await page.getByRole('status').filter({ hasText: /./ }).waitFor();
  // Where it is done already the button does nothing.
  await page.getByRole('button', { name: 'Cancel' }).click({ force: true });
}

async function compute(page: Page): Promise<void> {
  await giveUp(page);
  await page.getByRole('combobox', { name: 'Length L' }).selectOption('1024');
  await page.getByRole('button', { name: 'Compute' }).click();
  await page.getByRole('status').filter({ hasText: 'Done in' }).waitFor();
}

const LOOKS: Record<string, BrowserContextOptions> = {
  light: { colorScheme: 'light' },
  dark: { colorScheme: 'dark' },
  phone: {
    colorScheme: 'light',
    viewport: { width: 375, height: 800 },
    hasTouch: true,
    isMobile: true,
  },
};
for (const [look, context] of Object.entries(LOOKS)) {
  test(
    `phase transition, ${look}: verdict, five pictures, no serious finding of axe`,
    options,
    async () => {
      const { page, complaints } = await open(server.url, context);
      await compute(page);
      for (const name of [
        'Verdict',
        'Γ of each head',
        'Error against features',
        'Error against drawn keys',
        'Time against length',
        'Error of each gradient',
      ]) {
        await page.getByRole('article', { name }).waitFor();
      }
      const width = await page.evaluate<number>('document.documentElement.scrollWidth');
      assert.ok(width <= (context.viewport?.width ?? 1280), `${width} pixels wide`);
      await page.screenshot({ path: `${SCREENSHOTS}explorer-${look}.png`, fullPage: true });
      assert.deepEqual(await seriousFindings(page), []);
      assert.deepEqual(complaints, []);
      await page.close();
    },
  );
}

test('the sampled kernel: its error against drawn keys, and its time', options, async () => {
  const { page, complaints } = await open(server.url);
  await page.getByRole('combobox', { name: 'Size of the logits' }).selectOption('4');
  await page.getByRole('combobox', { name: 'Kernel' }).selectOption('sampled');
  await page.getByRole('combobox', { name: 'Tolerance' }).selectOption('10 %');
  await compute(page);
  const keys = page.getByRole('article', { name: 'Error against drawn keys' });
  await keys.getByText('Numbers').click();
  const rows = await keys.getByRole('row').allTextContents();
  assert.ok(rows.length > 4, `${rows.length} rows`);
  const errors = await keys.locator('tbody td:nth-child(2)').allTextContents();
  const falling = errors.map(Number).sort((a, b) => b - a);
  assert.deepEqual(errors.map(Number), falling);
  await page.getByRole('listitem').filter({ hasText: 'sampled, expected' }).waitFor();
  await page.screenshot({ path: `${SCREENSHOTS}explorer-sampled.png`, fullPage: true });
  assert.deepEqual(complaints, []);
  await page.close();
});

test('by keyboard alone: choose, compute, read the numbers', options, async () => {
  const { page } = await open(server.url);
  await page.getByRole('combobox', { name: 'Length L' }).focus();
  await page.keyboard.press('Home');
  for (
    let k = 0;
    k < 30 && (await page.evaluate('document.activeElement.textContent')) !== 'Compute';
    k++
  ) {
    await page.keyboard.press('Tab');
  }
  await page.keyboard.press('Enter');
  await page.getByRole('status').filter({ hasText: 'Done in' }).waitFor();
  const numbers = page.getByRole('article', { name: 'Γ of each head' }).getByText('Numbers');
  await numbers.focus();
  await page.keyboard.press('Enter');
  await page.getByRole('cell', { name: 'true' }).first().waitFor();
  await page.close();
});

test(
  'the numbers of a picture and the request can be downloaded; the request has the same answer again',
  options,
  async () => {
    const { page } = await open(server.url);
    await compute(page);
    const figure = page.getByRole('article', { name: 'Error of each gradient' });
    await figure.getByText('Numbers').click();
    const [csv] = await Promise.all([
      page.waitForEvent('download'),
      figure.getByRole('button', { name: 'Download CSV' }).click(),
    ]);
    assert.equal(csv.suggestedFilename(), 'errors.csv');
    const lines = readFileSync(await csv.path(), 'utf8').split('\n');
    assert.match(lines[0], /^name,relative,upper/);
    assert.equal(lines.length, 5, 'a heading and four tensors');
    await figure.getByText('Request', { exact: true }).click();
    const [body] = await Promise.all([
      page.waitForEvent('download'),
      figure.getByRole('button', { name: 'Download request.msgpack' }).click(),
    ]);
    const type = 'application/vnd.msgpack';
    const bytes = readFileSync(await body.path());
    const again = await server.post('/gradient', bytes, type, 'application/json');
    assert.equal(again.status, 200);
    const { error } = (await again.json()) as {
      error: Record<string, { estimate: { upper: number } }>;
    };
    const [name, , upper] = lines[1].split(',');
    assert.ok(Math.abs(error[name].estimate.upper / Number(upper) - 1) < 1e-9);
    await page.close();
  },
);

/** The .npy format: magic, version, length of the header, header, data. */
function npy(shape: readonly number[], data: Float32Array): Buffer {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(', ')}), }`;
  const padded = `${header.padEnd(117)}\n`;
  const head = Buffer.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, padded.length, 0]);
  return Buffer.concat([head, Buffer.from(padded), Buffer.from(data.buffer)]);
}

test('a dropped .npy file takes the place of the made hidden states', options, async () => {
  const { page, complaints } = await open(server.url);
  await giveUp(page);
  const data = Float32Array.from({ length: 96 * 16 }, (_, k) => Math.sin(k));
  const transfer = await page.evaluateHandle(`
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array([${[...npy([96, 16], data)]}])], 'states.npy'));
    transfer`);
  await page.locator('.drop').dispatchEvent('drop', { dataTransfer: transfer });
  await page.getByText('states.npy takes the place').waitFor();
  await page.getByRole('button', { name: 'Compute' }).click();
  await page.getByRole('status').filter({ hasText: 'Done in' }).waitFor();
  const limit = Math.sqrt(Math.log(96)).toPrecision(3);
  await page.getByText(`√ln L = ${limit}`).first().waitFor();
  assert.deepEqual(complaints, []);
  await page.close();
});

test('a file that cannot be read says why', options, async () => {
  const { page } = await open(server.url);
  await giveUp(page);
  const file = { name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('hello') };
  await page.getByLabel('File with tensors').setInputFiles(file);
  await page.getByRole('button', { name: 'Compute' }).click();
  await page.getByRole('alert').filter({ hasText: 'drop a .npy' }).waitFor();
  await page.close();
});

test('sweep: draws as it goes, and cancel stops it', options, async () => {
  const { page, complaints } = await open(`${server.url}/#sweep`);
  await page.getByRole('combobox', { name: 'Length L' }).selectOption('512');
  await page.getByRole('button', { name: 'Sweep' }).click();
  await page.getByRole('article', { name: 'Time', exact: true }).waitFor();
  const progress = page.getByRole('progressbar');
  while (Number(await progress.getAttribute('value')) < 3);
  await page.getByRole('button', { name: 'Cancel' }).last().click();
  await page.getByRole('status').filter({ hasText: 'Cancelled' }).waitFor();
  const points = Number(await progress.getAttribute('value'));
  assert.ok(points >= 3 && points < 16, `${points} points`);
  await page.screenshot({ path: `${SCREENSHOTS}explorer-sweep.png`, fullPage: true });
  assert.deepEqual(await seriousFindings(page), []);
  assert.deepEqual(complaints, []);
  await page.close();
});

test('this service: kernel build, workers and requests by outcome', options, async () => {
  const { page, complaints } = await open(`${server.url}/#service`);
  const now = page.getByRole('article', { name: 'Now' });
  await now.getByText('of 1 busy').waitFor();
  // The heartbeat of the engine is over when it is counted.
  await now.getByRole('row', { name: 'jobs running or waiting 0' }).waitFor();
  await page
    .getByRole('article', { name: 'Requests' })
    .getByRole('cell', { name: /\/gradient/ })
    .first()
    .waitFor();
  await page.screenshot({ path: `${SCREENSHOTS}explorer-service.png`, fullPage: true });
  assert.deepEqual(await seriousFindings(page), []);
  assert.deepEqual(complaints, []);
  await page.close();
});

test('with keys: the page opens without one, asks for it, and hands it on', options, async () => {
  const key = 'a-key-of-sixteen-and-more';
  const locked = await startServer({ LORAGRAD_API_KEYS: `one:${key}` });
  const { page } = await open(locked.url);
  const field = page.getByLabel('This service wants an API key');
  for (const entered of ['another-key-as-long-as-it', key]) {
    await page.getByRole('alert').filter({ hasText: 'API key' }).waitFor();
    await page.screenshot({ path: `${SCREENSHOTS}explorer-key.png` });
    assert.deepEqual(await seriousFindings(page), []);
    await field.fill(entered);
    await field.press('Enter');
  }
  await page.getByRole('status').filter({ hasText: 'Done in' }).waitFor();
  const gamma = page.getByRole('article', { name: 'Γ of each head' });
  await gamma.getByText('Request', { exact: true }).click();
  assert.match(
    (await gamma.locator('pre').textContent()) ?? '',
    /curl .* -H "authorization: Bearer \$LORAGRAD_API_KEY"/,
  );
  await page.goto(`${locked.url}/#service`);
  await page.getByRole('article', { name: 'Now' }).waitFor();
  assert.equal(await field.isVisible(), false);
  await page.close();
  await locked.close();
});

test('below a path of a proxy', options, async () => {
  const proxy = await startPrefixProxy(server.url, '/lora/grad', { announce: true });
  const { page, complaints } = await open(`${proxy.url}/`);
  await compute(page);
  await page.getByRole('article', { name: 'Verdict' }).waitFor();
  assert.deepEqual(complaints, []);
  await page.close();
  await proxy.close();
});

/** fetch asks for the whole file in any case. */
async function statusAgain(url: string, etag: string): Promise<number | undefined> {
  const asked = get(url, { headers: { 'if-none-match': etag } });
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  answer.resume();
  return answer.statusCode;
}

test('files with a hash are kept for good, the page is asked for again by its ETag', async () => {
  const page = await fetch(server.url);
  assert.equal(page.headers.get('cache-control'), 'no-cache');
  assert.match(page.headers.get('content-security-policy') ?? '', /script-src 'self';/);
  assert.equal(await statusAgain(server.url, page.headers.get('etag') ?? ''), 304);
  const script = /src="\.\/(assets\/[\w.-]+\.js)"/.exec(await page.text())?.[1];
  const asset = await fetch(`${server.url}/${script}`);
  assert.match(asset.headers.get('cache-control') ?? '', /immutable/);
  assert.equal((await fetch(`${server.url}/assets/nothing.js`)).status, 404);
});
