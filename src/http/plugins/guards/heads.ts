/**
 * The head of a request, before the framework sees it. Heads take turns, by address: whatever a client sends, others are heard
 * soon, and a round of the event loop stays short. And where so many requests of a client wait for a place that no more
 * may, the next is refused here, for a part of what its way through all hooks would cost: under overload these are
 * most requests.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import { PROBLEM_MEDIA_TYPE, type Problem } from '../../../errors.js';
import { Turns } from '../../admission/turns.js';
import { discardRest, drop } from '../../admission/unread-bodies.js';
import { REQUEST_ID_HEADER, requestId } from '../../request-id.js';
import { addressOf } from './clients.js';

/**
 * Heads that wait with what has come of their bodies, some 64 KiB each: more than may wait for a place. Of a client that has
 * some there, those that come after them are refused in their turn.
 */
const MOST = 1024;
/** One line of the log tells of all requests that were refused here in that time, ms. */
const LOG_MS = 1000;

const PROBE = /^[^?]*\/health\/(?:live|ready)(?:\?|$)/;

export const isProbe = ({ method, url = '' }: Pick<IncomingMessage, 'method' | 'url'>): boolean =>
  (method === 'GET' || method === 'HEAD') && PROBE.test(url);

/** Neither one that waits for leave to send its body, nor one of a page elsewhere, whose answer has more headers. */
const isPlain = ({ method, headers }: IncomingMessage) =>
  (method === 'POST' || method === 'PUT') &&
  headers.expect === undefined &&
  headers.origin === undefined;

/** Stands for the id of a request. */
const ID = '{id}';

/** What all say who are refused for the same reason: one answer, but for the ids of the requests. */
class Refusal {
  readonly #head: readonly string[];
  readonly #body: readonly string[];
  readonly #bytes: number;

  constructor(readonly problem: Problem) {
    // Ids have no letter that JSON would escape, and each takes one byte.
    this.#body = JSON.stringify(problem.details(ID)).split(ID);
    this.#bytes = Buffer.byteLength(this.#body.join(''));
    this.#head = [
      'content-type',
      PROBLEM_MEDIA_TYPE,
      ...Object.entries({ ...problem.options.headers }).flat(),
    ];
  }

  send(request: IncomingMessage, response: ServerResponse): void {
    const id = requestId(request);
    discardRest(request);
    const length = String(this.#bytes + (this.#body.length - 1) * id.length);
    const own = ['content-length', length, REQUEST_ID_HEADER, id];
    response.writeHead(this.problem.statusCode, [...this.#head, ...own]);
    response.end(this.#body.join(id));
  }
}

async function heads(app: FastifyInstance): Promise<void> {
  const turns = new Turns();
  const probes = new Turns();
  const [handle] = app.server.listeners('request') as [RequestListener];
  let refused = 0;
  let last: Refusal | null = null;

  const refuse = (problem: Problem, request: IncomingMessage, response: ServerResponse) => {
    const start = performance.now();
    if (last?.problem !== problem) last = new Refusal(problem);
    last.send(request, response);
    const { kind, statusCode: status } = problem;
    app.metrics.problems.inc({ type: kind });
    const labels = { method: request.method ?? '', route: 'none', status };
    app.metrics.requests.observe(labels, (performance.now() - start) / 1000);
    if (refused++ > 0) return;
    const tell = () => {
      app.log.info(
        { status, problem: kind, refused },
        `${refused} requests refused: ${problem.message}`,
      );
      refused = 0;
    };
    setTimeout(tell, LOG_MS).unref();
  };

  const whyNot = (request: IncomingMessage, client: string, crowded: boolean) =>
    isPlain(request) && !app.draining() ? app.turnedAway(client, crowded) : null;

  app.server.off('request', handle);
  app.server.on('request', async (request, response) => {
    if (isProbe(request)) {
      // By connection: a client that sends thousands of probes at once delays only itself.
      await probes.take(`${request.socket.remoteAddress} ${request.socket.remotePort}`);
      return handle(request, response);
    }
    const client = addressOf(request.socket.remoteAddress ?? '');
    const crowded = turns.waiting >= MOST && turns.isWaiting(client);
    const early = whyNot(request, client, crowded);
    // Nothing of it is kept while it waits.
    if (early) drop(request);
    await turns.take(client);
    // Its client has left meanwhile.
    if (request.socket.destroyed) return;
    const problem = early ?? whyNot(request, client, false);
    if (problem) refuse(problem, request, response);
    else handle(request, response);
  });
}

export default fp(heads, {
  name: 'heads',
  dependencies: ['admission', 'clients', 'draining', 'metrics', 'problems'],
});
