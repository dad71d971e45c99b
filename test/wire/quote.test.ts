import assert from 'node:assert/strict';
import { test } from 'node:test';
import { quote } from '../../src/wire/tree/quote.js';
import { encodedTensor } from '../../workers/tensor/encoded.js';

test('a text is cut before it is quoted', () => {
  assert.equal(quote('short "text"'), '"short \\"text\\""');
  assert.equal(quote('x'.repeat(1000)), `"${'x'.repeat(57)}..."`);
});

test('numbers, booleans and null are shown as they are', () => {
  assert.deepEqual([1.5, false, null].map(quote), ['1.5', 'false', 'null']);
});

test('what may be large is named and not looked into', () => {
  const untouchable = (target: object) =>
    new Proxy(target, {
      get() {
        throw new Error('its contents were read');
      },
      ownKeys() {
        throw new Error('its keys were read');
      },
    });
  assert.equal(quote(untouchable({})), 'a map');
  assert.equal(quote(untouchable([])), 'a list');
  assert.equal(quote(encodedTensor('float32', [1], new Uint8Array(4))), 'a tensor');
  assert.equal(quote(new Uint8Array(4)), 'raw bytes');
});
