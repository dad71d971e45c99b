/** The service as main.ts puts it together, on a free port of this process. */
import type { AddressInfo } from 'node:net';
import { after } from 'node:test';
import { poolOptions, queueOptions, readConfig } from '../../../src/config.js';
import { ThreadedEngine } from '../../../src/engine/engine.js';
import { buildApp } from '../../../src/http/app.js';
import type { Config } from '../../../src/settings.js';
import type { GradientRequest, Gradients, InputGradients, Threshold } from '../fixtures.js';
import { DIALECTS, decodeAnswer } from '../wire/dialects.js';
import type { WireTensor } from '../wire/wire-tensor.js';

/** What the tests read of an answer, with every tensor as {dtype, shape, data}. */
export interface GradientAnswer {
  gradients?: Gradients;
  loss?: number;
  attention_output?: WireTensor;
  input_gradients?: InputGradients;
  method: string;
  fallback: boolean;
  error: Record<string, { estimate: { relative: number; upper: number } | null }>;
  threshold: Threshold;
  timings_ms: Record<string, number>;
}

export interface RunningServer {
  readonly url: string;
  post(path: string, body: Uint8Array, contentType: string, accept: string): Promise<Response>;
  /** The decoded answer of POST /gradient, and of POST /plan; anything but 200 is an error. */
  gradient(request: GradientRequest): Promise<GradientAnswer>;
  plan(request: GradientRequest): Promise<Omit<GradientAnswer, 'gradients' | 'loss'>>;
  /** That of POST /forward, to the same layer. */
  forward(request: GradientRequest): Promise<GradientAnswer>;
  close(): Promise<void>;
}

/** Of some machine: what is chosen does not depend on that of the test, and nothing has to be measured. */
export const RATES = { exact: 1e10, lowRank: 5e9 };

const shared = new Map<string, Promise<RunningServer>>();

/** One for all tests of this process that ask for these settings; it ends after them. */
export function sharedServer(settings: NodeJS.ProcessEnv = {}): Promise<RunningServer> {
  const name = JSON.stringify(settings);
  const running = shared.get(name);
  if (running) return running;
  const server = startServer(settings);
  shared.set(name, server);
  after(async () => (await server).close());
  return server;
}

const engines = new Map<string, { readonly engine: Promise<ThreadedEngine>; servers: number }>();

/**
 * Threads for a server of this process. Those that run at a time share them where they want the same, for to start them takes
 * longer than most tests; nodes of a queue do not, being machines.
 */
async function engineFor(config: Config) {
  const [pool, queue] = [{ ...poolOptions(config), rates: RATES }, queueOptions(config)];
  if (queue) {
    const engine = await ThreadedEngine.start(pool, queue);
    return { engine, leave: () => engine.close() };
  }
  const name = JSON.stringify(pool);
  const shared = engines.get(name) ?? { engine: ThreadedEngine.start(pool), servers: 0 };
  engines.set(name, shared);
  shared.servers++;
  const engine = await shared.engine;
  const leave = async () => {
    if (--shared.servers > 0) return;
    engines.delete(name);
    await engine.close();
  };
  return { engine, leave };
}

/** @param settings environment variables that differ from their defaults. */
export async function startServer(settings: NodeJS.ProcessEnv = {}): Promise<RunningServer> {
  const config = readConfig({
    PORT: '0',
    LOG_LEVEL: 'silent',
    // Code becomes warm in each of them. Who needs more says so.
    LORAGRAD_WORKERS: '1',
    // However busy the machine is.
    LORAGRAD_WARMUP_MS: '120000',
    ...settings,
  });
  const { engine, leave } = await engineFor(config);
  const app = await buildApp(config, engine);
  await app.listen({ port: config.PORT, host: config.HOST });
  const { port } = app.server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;

  const post: RunningServer['post'] = (path, body, contentType, accept) =>
    fetch(url + path, {
      method: 'POST',
      headers: { 'content-type': contentType, accept },
      body: new Uint8Array(body),
    });

  const ask = async (path: string, request: GradientRequest) => {
    const { contentType, encode } = DIALECTS.tensors;
    const response = await post(path, encode(request), contentType, contentType);
    const body = new Uint8Array(await response.arrayBuffer());
    if (response.status !== 200) throw new Error(`${response.status}: ${Buffer.from(body)}`);
    return decodeAnswer(body, response.headers.get('content-type') ?? '') as GradientAnswer;
  };

  return {
    url,
    post,
    gradient: (request) => ask('/gradient', request),
    plan: (request) => ask('/plan', request),
    forward: ({ target: _, grad_output: __, outputs: ___, ...layer }) => ask('/forward', layer),
    close: async () => {
      await app.close();
      await leave();
    },
  };
}
