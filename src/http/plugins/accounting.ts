/**
 * Every request is accounted for once, when its answer is out or its client has gone: one line of the log,
 * and the metrics. (Fastify's own onResponse hook knows nothing of clients that leave.)
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.js';
import { PROBLEMS } from '../../problem-kinds.js';
import type { Timings } from '../../solver/phases.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** What the line of the log tells beside what every request has. */
    notes: Record<string, unknown>;
    /** Milliseconds by phase, for the line and for the header server-timing. */
    timings: Timings | null;
  }
}

/** The problem that the request ended with: that of its answer, or why there was none. */
function problemOf(request: FastifyRequest, reply: FastifyReply): Problem | null {
  if (reply.raw.writableFinished) return reply.problem;
  const reason: unknown = request.cancellation?.reason;
  return reason instanceof Problem
    ? reason
    : new Problem('client-gone', PROBLEMS['client-gone'].title);
}

function levelOf(status: number): 'info' | 'warn' | 'error' {
  if (status < 500) return 'info';
  return status === 500 ? 'error' : 'warn';
}

const rounded = (milliseconds: number) => Math.round(milliseconds * 1000) / 1000;

function account(app: FastifyInstance, request: FastifyRequest, reply: FastifyReply): void {
  const problem = problemOf(request, reply);
  const status = problem?.statusCode ?? reply.statusCode;
  const ms = rounded(reply.elapsedTime);
  const route = request.routeOptions?.url ?? 'none';
  app.metrics.requests.observe({ method: request.method, route, status }, ms / 1000);
  request.span?.end(status, problem?.kind ?? null);
  if (problem) app.metrics.problems.inc({ type: problem.kind });
  const { pointer, cause } = problem?.options ?? {};
  // No route reads what follows, and it may be a key.
  const [path] = request.url.split('?', 1) as [string];
  const line = {
    ...{ method: request.method, url: path.slice(0, 200), status, ms },
    client: request.ip,
    bytes: Number(reply.getHeader('content-length')) || undefined,
    ...request.notes,
    ...(request.timings && { timings_ms: request.timings }),
    ...(problem && { problem: problem.kind, pointer, detail: problem.message }),
    ...(status === 500 && { err: cause ?? problem }),
  };
  request.log[levelOf(status)](line, `${request.method} ${line.url} ${status} in ${ms} ms`);
}

/** To be called once for each request, as early as possible. */
export function watchAnswer(
  app: FastifyInstance,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  request.notes = {};
  // 'close' comes once, whether the answer was sent or the client went away.
  reply.raw.once('close', () => account(app, request, reply));
}

async function accounting(app: FastifyInstance): Promise<void> {
  app.decorateRequest('notes');
  app.decorateRequest('timings', null);
  app.addHook('onRequest', async (request, reply) => watchAnswer(app, request, reply));
  app.addHook('onSend', async (request, reply) => {
    const timings = Object.entries(request.timings ?? { total: reply.elapsedTime });
    const metrics = timings.map(([name, ms]) => `${name};dur=${rounded(ms)}`);
    reply.header('server-timing', metrics.join(', '));
  });
}

export default fp(accounting, { name: 'accounting' });
