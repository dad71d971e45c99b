/** Writes openapi/openapi.json from the schemas in the code: npm run docs. */
import { writeFileSync } from 'node:fs';
import { readConfig } from '../src/config.js';
import type { Engine } from '../src/engine/engine.js';
import { buildApp } from '../src/http/app.js';

/** The document needs routes, not workers. */
export const IDLE: Engine = {
  kernels: 'wasm-plain',
  rates: { exact: 1, lowRank: 1 },
  run: () => {
    throw new Error('There are no workers behind the document');
  },
  load: () => ({ workers: 0, busy: 0, jobs: 0, waiting: 0, restarts: 0 }),
  queue: () => null,
  healthy: () => true,
  close: async () => {},
};

export async function openapiDocument(): Promise<string> {
  const app = await buildApp(readConfig({ LOG_LEVEL: 'silent' }), IDLE);
  await app.ready();
  const document = app.swagger();
  await app.close();
  return `${JSON.stringify(document, null, 2)}\n`;
}

if (process.argv[1]?.endsWith('generate.js')) {
  writeFileSync(new URL('../../openapi/openapi.json', import.meta.url), await openapiDocument());
}
