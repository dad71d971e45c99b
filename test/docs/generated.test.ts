import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Validator } from '@seriousme/openapi-schema-validator';
import { PICTURES } from '../../docs/pictures.js';
import { TABLES, withTable } from '../../docs/tables.js';
import { openapiDocument } from '../../openapi/generate.js';
import { swaggerDocument } from '../../src/http/schemas/swagger-document.js';
import { ConfigSchema } from '../../src/settings.js';

const root = new URL('../../../', import.meta.url);
const read = (file: string) => readFileSync(new URL(file, root), 'utf8');

test('openapi/openapi.json is what the code says (npm run docs)', async () => {
  assert.equal(read('openapi/openapi.json'), await openapiDocument());
});

test('the OpenAPI document is valid 3.1', async () => {
  const validator = new Validator();
  const { valid, errors } = await validator.validate(JSON.parse(read('openapi/openapi.json')));
  assert.ok(valid, JSON.stringify(errors, null, 2));
  assert.equal(validator.version, '3.1');
});

test('the document of the page is valid 3.0, and what may be null says so', async () => {
  const document = swaggerDocument(JSON.parse(read('openapi/openapi.json')));
  const validator = new Validator();
  const { valid, errors } = await validator.validate({ ...document });
  assert.ok(valid, JSON.stringify(errors, null, 2));
  assert.equal(validator.version, '3.0');
  assert.doesNotMatch(JSON.stringify(document), /"type":"null"/);
  assert.match(JSON.stringify(document), /"nullable":true/);
});

/** Every schema object below a node that is a value of `properties`. */
function* properties(node: unknown, path: string): Generator<[string, Record<string, unknown>]> {
  if (typeof node !== 'object' || node === null) return;
  for (const [key, value] of Object.entries(node)) {
    if (key === 'properties') {
      for (const [name, schema] of Object.entries(value as object))
        yield [`${path}.${name}`, schema];
    }
    if (key !== 'examples') yield* properties(value, `${path}/${key}`);
  }
}

test('every field of the document is described', () => {
  const undescribed = [...properties(JSON.parse(read('openapi/openapi.json')), '')]
    .filter(([, schema]) => !schema.description)
    .map(([path]) => path);
  assert.deepEqual(undescribed, []);
});

for (const { file, name, make } of TABLES) {
  test(`the table of ${name} in ${file} is what the code says (npm run docs)`, () => {
    const text = read(file);
    assert.equal(text, withTable(text, name, make()));
  });
}

for (const { file, make } of PICTURES) {
  test(`${file} is what the code draws (npm run docs)`, () => assert.equal(read(file), make()));
}

test('docker-compose.yml hands every setting of the service through', () => {
  const compose = read('docker-compose.yml');
  const settings = Object.keys(ConfigSchema.properties).filter((name) =>
    name.startsWith('LORAGRAD_'),
  );
  const missing = settings.filter((name) => !compose.includes(`      ${name}:`));
  assert.deepEqual(missing, []);
});
