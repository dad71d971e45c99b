/** What operators are given names metrics that the service has. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { IDLE } from '../../openapi/generate.js';
import { readConfig } from '../../src/config.js';
import { buildApp } from '../../src/http/app.js';

const read = (file: string) => readFileSync(new URL(`../../../${file}`, import.meta.url), 'utf8');

for (const file of [
  'deploy/prometheus/alerts.yml',
  'deploy/grafana/dashboards/loragrad.json',
  'docs/operations.md',
]) {
  test(`the metrics of ${file} exist`, async () => {
    const app = await buildApp(readConfig({ LOG_LEVEL: 'silent' }), IDLE);
    const text = (await app.inject({ url: '/metrics' })).body;
    await app.close();
    const known = new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name));
    const named = [...read(file).matchAll(/\b(?:loragrad|nodejs)_[a-z0-9_]*[a-z0-9]\b/g)].map(
      ([name]) => name.replace(/_(?:bucket|sum|count)$/, ''),
    );
    assert.ok(named.length > 5);
    const unknown = named.filter((name) => name !== 'loragrad_store' && !known.has(name));
    assert.deepEqual(unknown, []);
  });
}
