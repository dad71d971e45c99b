/** What operators are given fits the service, and what reads it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { parseAllDocuments } from 'yaml';
import { IDLE } from '../../openapi/generate.js';
import { PREFIX, queueName } from '../../src/cluster/names.js';
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

interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly spec: Record<string, unknown>;
}

const manifests = (file: string): Manifest[] =>
  parseAllDocuments(read(`deploy/kubernetes/${file}`)).map((one) => one.toJS() as Manifest);

test('KEDA takes its manifests, and they name what there is', () => {
  const schema = JSON.parse(read('deploy/kubernetes/keda.schema.json')) as object;
  const validate = new Ajv2020({ allErrors: true }).compile(schema);
  const all = manifests('keda.yaml');
  for (const one of all) {
    assert.ok(validate(one), JSON.stringify(validate.errors));
    assert.ok(!validate({ ...one, spec: { ...one.spec, misspelt: 1 } }));
  }
  const scaled = all.find(({ kind }) => kind === 'ScaledObject')!.spec as unknown as {
    scaleTargetRef: { name: string };
    triggers: [{ metadata: { listName: string }; authenticationRef: { name: string } }];
  };
  const [{ metadata, authenticationRef }] = scaled.triggers;
  const named = (kind: string, from: readonly Manifest[]) =>
    from.filter((one) => one.kind === kind).map((one) => one.metadata.name);
  assert.deepEqual(named('TriggerAuthentication', all), [authenticationRef.name]);
  assert.ok(named('Deployment', manifests('worker.yaml')).includes(scaled.scaleTargetRef.name));
  assert.equal(metadata.listName, `${PREFIX}:${queueName('avx2')}:wait`);
});
