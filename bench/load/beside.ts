/**
 * What measures a service under load sends from a thread of its own: the thread of a trial that has hundreds of requests
 * in the air is late itself.
 */
import { once } from 'node:events';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { httpRequest } from '../support/http-load.js';
import { Client } from './client.js';
import { mixture, politeLoop, type Tally } from './traffic.js';

interface Order {
  readonly what: 'probe' | 'polite';
  readonly port: number;
  /** Of the polite client. */
  readonly seconds: number;
}

/** Between two looks at the health of the service. */
const PROBE_MS = 50;

const begin = (order: Order) => new Worker(new URL(import.meta.url), { workerData: order });

/** @returns what ends it and resolves to the milliseconds that GET /health/live took, every time. */
export function probe(port: number): () => Promise<number[]> {
  const thread = begin({ what: 'probe', port, seconds: 0 });
  return async () => {
    thread.postMessage('end');
    const [latencies] = (await once(thread, 'message')) as [number[]];
    return latencies;
  };
}

/** A client of another address, with one connection, that sends small requests and waits as it is told to. */
export async function polite(
  port: number,
  seconds: number,
): Promise<{ tally: Tally; refused: number }> {
  const [result] = await once(begin({ what: 'polite', port, seconds }), 'message');
  return result as { tally: Tally; refused: number };
}

async function probing(client: Client): Promise<number[]> {
  const live = httpRequest('GET', '/health/live');
  const latencies: number[] = [];
  let ended = false;
  parentPort?.once('message', () => {
    ended = true;
  });
  while (!ended) {
    const start = performance.now();
    await client.send(live);
    latencies.push(performance.now() - start);
    await new Promise((resolve) => setTimeout(resolve, PROBE_MS));
  }
  return latencies;
}

if (!isMainThread) {
  const { what, port, seconds } = workerData as Order;
  const client = new Client(port, '127.0.0.2');
  const result = what === 'probe' ? probing(client) : politeLoop(client, mixture()[0]!, seconds);
  parentPort?.postMessage(await result);
  client.close();
}
