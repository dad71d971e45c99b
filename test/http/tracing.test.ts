import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { startServer } from '../support/processes/server.js';
import { pack, validBody } from '../support/wire/bodies.js';

interface ExportedSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: readonly {
    key: string;
    value: { stringValue?: string; intValue?: number };
  }[];
}

/** Takes OTLP over HTTP, as a collector does. */
async function startCollector() {
  const spans: ExportedSpan[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const { resourceSpans } = JSON.parse(String(Buffer.concat(chunks)));
    assert.equal(request.url, '/v1/traces');
    for (const { scopeSpans } of resourceSpans) {
      for (const scope of scopeSpans) spans.push(...scope.spans);
    }
    response.setHeader('content-type', 'application/json').end('{}');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, spans, close: () => server.close() };
}

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = '00f067aa0ba902b7';

test('a request continues the trace of its client; phases and stages of tasks are spans of it', async () => {
  const collector = await startCollector();
  const server = await startServer({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url });
  const response = await fetch(`${server.url}/gradient`, {
    method: 'POST',
    headers: {
      'content-type': 'application/vnd.msgpack',
      traceparent: `00-${TRACE}-${PARENT}-01`,
    },
    body: new Uint8Array(pack({ ...validBody(), method: 'exact' })),
  });
  assert.equal(response.status, 200);
  await response.arrayBuffer();
  const refused = await fetch(`${server.url}/gradient`, { method: 'POST' });
  assert.equal(refused.status, 415);
  await fetch(`${server.url}/health/ready`);
  await server.close();
  collector.close();

  const mine = collector.spans.filter(({ traceId }) => traceId === TRACE);
  const named = (name: string) => mine.find((span) => span.name === name);
  const root = named('POST /gradient');
  assert.equal(root?.parentSpanId, PARENT);
  assert.equal(response.headers.get('traceparent'), `00-${TRACE}-${root?.spanId}-01`);
  for (const phase of ['queue', 'decode', 'plan', 'compute', 'encode']) {
    assert.equal(named(phase)?.parentSpanId, root?.spanId, phase);
  }
  // A problem as small as this one is a single task.
  const stage = mine.find(({ attributes }) =>
    attributes.some(({ key }) => key === 'loragrad.tasks'),
  );
  assert.deepEqual(stage?.attributes, [{ key: 'loragrad.tasks', value: { intValue: 1 } }]);
  assert.equal(mine.find(({ spanId }) => spanId === stage?.parentSpanId)?.name, 'compute');
  for (const { name, startTimeUnixNano, endTimeUnixNano } of mine) {
    assert.ok(BigInt(endTimeUnixNano) >= BigInt(startTimeUnixNano), name);
  }
  const others = collector.spans.filter(({ traceId }) => traceId !== TRACE);
  assert.deepEqual(
    others.map(({ name }) => name),
    ['POST /gradient'],
  );
  assert.deepEqual(others[0]?.attributes.find(({ key }) => key === 'error.type')?.value, {
    stringValue: 'unsupported-media-type',
  });
});
