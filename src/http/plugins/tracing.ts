/**
 * Which trace a request belongs to (W3C Trace Context): in the log, and, where there is a collector, with spans
 * of its own.
 */
import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import type { RequestSpan } from '../observability/telemetry.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** null: nothing is traced. */
    span: RequestSpan | null;
  }
}

const TRACEPARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}/;

async function tracing(app: FastifyInstance, { endpoint }: { endpoint: string }): Promise<void> {
  app.decorateRequest('span', null);
  app.addHook('onRequest', async (request) => {
    const [, traceId] = TRACEPARENT.exec(String(request.headers.traceparent ?? '')) ?? [];
    if (traceId) request.notes.trace_id = traceId;
  });
  if (endpoint === '') return;
  // Nothing of it is loaded where it is not used.
  const { openTelemetry } = await import('../observability/telemetry.js');
  const telemetry = openTelemetry(endpoint);
  app.addHook('onRequest', async (request, reply) => {
    // Probes and scrapes say nothing worth a trace.
    if (request.routeOptions.logLevel === 'warn') return;
    request.span = telemetry.begin(request);
    request.notes.trace_id = request.span.traceId;
    reply.header('traceparent', request.span.traceparent);
  });
  app.addHook('onClose', () => telemetry.close());
}

export default fp(tracing, { name: 'tracing', dependencies: ['accounting'] });
