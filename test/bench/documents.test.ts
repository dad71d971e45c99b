/** The documents on the method point at tables and plots that the benchmark really makes. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { QUESTIONS } from '../../bench/questions.js';

const folder = fileURLToPath(new URL('../../../docs/method', import.meta.url));
const text = readdirSync(folder)
  .map((file) => readFileSync(join(folder, file), 'utf8'))
  .join('\n');
const all = (pattern: RegExp) => [...text.matchAll(pattern)].map(([, found]) => found);

test('every table that docs/method points at is the answer to a question', () => {
  const names = QUESTIONS.map(({ name }) => name);
  const anchors = all(/benchmarks\.md#(\w+)/g);
  assert.ok(anchors.length > 0);
  for (const anchor of anchors) assert.ok(names.includes(anchor), anchor);
});

test('every plot that docs/method shows is there', () => {
  const plots = all(/\]\((\.\.\/benchmarks\/[\w-]+\.svg)\)/g);
  assert.ok(plots.length > 0);
  for (const plot of plots) assert.ok(existsSync(join(folder, plot)), plot);
});
