/** A headless Chromium that is already on the machine; nothing is downloaded. */
import { existsSync } from 'node:fs';
import { after } from 'node:test';
import { type Browser, chromium } from 'playwright-core';

const CANDIDATES = [
  process.env.CHROMIUM_PATH,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];

export const BROWSER = CANDIDATES.find((path) => path && existsSync(path));

/** For `skip`: why browser tests cannot run here, or false. */
export const NO_BROWSER = BROWSER ? false : 'no Chromium found; install one or set CHROMIUM_PATH';

let browser: Promise<Browser> | undefined;
after(async () => (await browser)?.close());

/** One for all tests of this process. */
export function sharedBrowser(): Promise<Browser> {
  browser ??= chromium.launch({
    executablePath: BROWSER as string,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
  return browser;
}
