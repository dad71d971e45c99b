import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readConfig, unknownSettings } from '../src/config.js';

test('defaults, without any variable', () => {
  const config = readConfig({});
  assert.equal(config.PORT, 3000);
  assert.equal(config.HOST, '127.0.0.1');
});

test('variables are converted to numbers', () => {
  assert.equal(readConfig({ PORT: '80', LORAGRAD_DEADLINE_MS: '1500' }).LORAGRAD_DEADLINE_MS, 1500);
});

for (const [name, value] of [
  ['PORT', 'http'],
  ['PORT', '70000'],
  ['LOG_LEVEL', 'loud'],
  ['LORAGRAD_WORKERS', '-1'],
  ['LORAGRAD_MAX_REQUESTS', '0'],
  ['LORAGRAD_MAX_BODY_BYTES', '1.5'],
  ['LORAGRAD_QUEUE_URL', 'http://127.0.0.1:6379'],
  ['OTEL_EXPORTER_OTLP_ENDPOINT', '127.0.0.1:4318'],
] as const) {
  test(`${name}=${value} is refused by name`, () => {
    assert.throws(() => readConfig({ [name]: value }), new RegExp(name));
  });
}

test('a misspelt setting is noticed', () => {
  const env = { LORAGRAD_WORKER: '3', LORAGRAD_WORKERS: '3', PATH: '/bin' };
  assert.deepEqual(unknownSettings(env), ['LORAGRAD_WORKER']);
});
