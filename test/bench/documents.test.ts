/** The text on the method points at tables and plots that the benchmark really makes. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { QUESTIONS } from '../../bench/questions.js';

const docs = fileURLToPath(new URL('../../../docs', import.meta.url));
const text = readFileSync(join(docs, 'method.md'), 'utf8');
const all = (pattern: RegExp) => [...text.matchAll(pattern)].map(([, found]) => found);

test('every table that docs/method.md points at is the answer to a question', () => {
  const names = QUESTIONS.map(({ name }) => name);
  for (const anchor of all(/benchmarks\.md#(\w+)/g)) assert.ok(names.includes(anchor), anchor);
});

test('every plot that docs/method.md shows is there', () => {
  const plots = all(/\]\((benchmarks\/[\w-]+\.svg)\)/g);
  assert.ok(plots.length > 0);
  for (const plot of plots) assert.ok(existsSync(join(docs, plot)), plot);
});
