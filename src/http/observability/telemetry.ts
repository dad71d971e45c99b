/** OpenTelemetry: spans of requests, and of what the engine and its workers did for them, to a collector. */
import {
  type Context,
  defaultTextMapGetter,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BatchSpanProcessor, TracerProvider } from '@opentelemetry/sdk-trace';
import type { FastifyRequest } from 'fastify';
import type { Interval } from '../../engine/messages.js';
import { packageVersion } from '../../version.js';

/** The span of one request. */
export class RequestSpan {
  readonly #span: Span;
  readonly #context: Context;

  constructor(
    private readonly tracer: Tracer,
    request: FastifyRequest,
    parent: Context,
  ) {
    const { method, routeOptions, id } = request;
    const route = routeOptions.url;
    this.#span = tracer.startSpan(
      route ? `${method} ${route}` : method,
      {
        kind: SpanKind.SERVER,
        attributes: {
          'http.request.method': method,
          ...(route && { 'http.route': route }),
          'loragrad.request_id': id,
        },
      },
      parent,
    );
    this.#context = trace.setSpan(parent, this.#span);
  }

  get traceId(): string {
    return this.#span.spanContext().traceId;
  }

  /** W3C Trace Context: this span as the parent of others. */
  get traceparent(): string {
    const { traceId, spanId, traceFlags } = this.#span.spanContext();
    return `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, '0')}`;
  }

  /** Phases, and the stages within them. */
  record(intervals: readonly Interval[]): void {
    const phases = intervals.filter(({ tasks }) => tasks === null);
    const spans = phases.map((phase) => ({ phase, span: this.#child(phase, this.#context) }));
    for (const stage of intervals) {
      if (stage.tasks === null) continue;
      // It may have begun with the wait for a worker.
      const around = spans.find(({ phase }) => phase.start < stage.end && stage.end <= phase.end);
      const parent = around ? trace.setSpan(this.#context, around.span) : this.#context;
      this.#child(stage, parent).end(stage.end);
    }
    for (const { phase, span } of spans) span.end(phase.end);
  }

  #child({ name, start, tasks }: Interval, parent: Context): Span {
    const attributes = tasks === null ? {} : { 'loragrad.tasks': tasks };
    return this.tracer.startSpan(name, { startTime: start, attributes }, parent);
  }

  /** @param problem its kind; null: there is none. */
  end(status: number, problem: string | null): void {
    this.#span.setAttribute('http.response.status_code', status);
    if (problem) this.#span.setAttribute('error.type', problem);
    if (status >= 500) this.#span.setStatus({ code: SpanStatusCode.ERROR });
    this.#span.end();
  }
}

interface Telemetry {
  begin(request: FastifyRequest): RequestSpan;
  /** Sends what is still here. */
  close(): Promise<void>;
}

/** @param endpoint of the collector, OTLP over HTTP: 'http://collector:4318'. */
export function openTelemetry(endpoint: string): Telemetry {
  const provider = new TracerProvider({
    resource: resourceFromAttributes({
      'service.name': 'loragrad',
      'service.version': packageVersion(),
    }),
    spanProcessors: [
      new BatchSpanProcessor({
        exporter: new OTLPTraceExporter({ url: `${endpoint.replace(/\/$/, '')}/v1/traces` }),
      }),
    ],
  });
  const tracer = provider.getTracer('loragrad', packageVersion());
  const propagator = new W3CTraceContextPropagator();
  return {
    begin: (request) =>
      new RequestSpan(
        tracer,
        request,
        propagator.extract(ROOT_CONTEXT, request.headers, defaultTextMapGetter),
      ),
    close: () => provider.shutdown(),
  };
}
