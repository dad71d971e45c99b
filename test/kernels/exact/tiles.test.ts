/** What the tile kernel takes beside plain attention: biases of keys, gathered keys. Against small loops. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  BLOCK_BYTES,
  KEYS,
  ROWS,
  TILE_FLOATS,
  writeBlock,
} from '../../../workers/kernels/inner/block.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { packedFloats } from '../../../workers/kernels/inner/operations/products.js';
import { normal, testSeed } from '../../support/random.js';

const SEED = testSeed(5);
const random = normal(SEED);
const numbers = (n: number) => Float32Array.from({ length: n }, random);

for (const bounded of [0, 1]) {
  for (const masked of [false, true]) {
    test(`a bias of each key, ${bounded ? 'bounded' : 'row maxima'}${masked ? ', ranges of rows' : ''}`, () => {
      const wasm = loadWasm();
      const [keys, d, tiles] = [90, 24, 2];
      const [q, k, bias] = [numbers(ROWS * d), numbers(keys * d), numbers(keys)];
      // The second tile is seen by no row of the block; where there is none, all see all.
      const from = Int32Array.from(bias, (_, j) => (j < KEYS ? 100 + (j % 70) : 164));
      const to = Int32Array.from(bias, (_, j) => 164 + (j % 3));
      const ranges = (x: Int32Array) => {
        const at = wasm.alloc(4 * KEYS * tiles);
        wasm.i32(at, keys).set(x);
        return masked ? at : 0;
      };
      const padded = new Float32Array(KEYS * tiles * d);
      padded.set(k);
      const qAt = wasm.put(q);
      const panels = wasm.allocFloats(packedFloats(d, ROWS));
      wasm.fn.pack_transposed(ROWS, d, qAt, d, Math.LOG2E, panels);
      const e = wasm.allocFloats(tiles * TILE_FLOATS);
      const max = wasm.put(new Float32Array(ROWS).fill(Number.NEGATIVE_INFINITY));
      const sum = wasm.alloc(8 * ROWS);
      wasm.f64(sum, ROWS).fill(0);
      const block = wasm.alloc(BLOCK_BYTES);
      const kAt = wasm.put(padded);
      const biasAt = wasm.put(
        Float32Array.from({ length: KEYS * tiles }, (_, j) => (bias[j] ?? 0) * Math.LOG2E),
      );
      const none = {
        g: 0,
        v: 0,
        cap: 0,
        slope: 0,
        t: 0,
        dot: 0,
        mean: 0,
        o: 0,
        ps: 0,
        pv: 0,
        dv: 0,
      };
      writeBlock(wasm, block, {
        ...none,
        ...{ us: 0, uv: 0, ws: 0, wv: 0, rs: 0, rv: 0, ls: 0, lv: 0, origin: 0, firstRow: 100 },
        ...{
          rows: ROWS,
          keys,
          bounded,
          d,
          q: panels,
          k: kAt,
          bias: biasAt,
          from: ranges(from),
          to: ranges(to),
        },
        ...{ e, max, sum },
      });
      if (!bounded) wasm.fn.scores(block, 0, tiles);
      wasm.fn.weights(block, 0, tiles);
      const E = wasm.f32(e, tiles * TILE_FLOATS);
      const sums = wasm.f64(sum, ROWS);
      for (let i = 0; i < ROWS; i++) {
        const expected = Array.from({ length: keys }, (_, j) => {
          if (masked && (100 + i < from[j]! || 100 + i >= to[j]!)) return 0;
          let s = bias[j]!;
          for (let c = 0; c < d; c++) s += q[i * d + c]! * k[j * d + c]!;
          return Math.exp(s);
        });
        const total = expected.reduce((a, b) => a + b, 0);
        for (let j = 0; j < keys; j++) {
          const weight = sums[i] === 0 ? 0 : E[j * ROWS + i]! / sums[i]!;
          const truth = total === 0 ? 0 : expected[j]! / total;
          assert.ok(
            Math.abs(weight - truth) <= 1e-5 * truth,
            `row ${i}, key ${j}: ${weight}, ${truth}; seed ${SEED}`,
          );
        }
      }
    });
  }
}

test('gathered rows, and what is scattered back to them', () => {
  const wasm = loadWasm();
  for (const width of [3, 8, 10]) {
    const index = [4, 0, 7, 3, 4];
    const [x, total] = [numbers(9 * width), numbers(9 * width)];
    const [xAt, totalAt, some] = [wasm.put(x), wasm.put(total), wasm.allocFloats(5 * width)];
    const list = wasm.alloc(4 * index.length);
    wasm.i32(list, index.length).set(index);
    wasm.fn.gather_rows(index.length, width, list, xAt, some);
    const rows = index.flatMap((row) => [...x.subarray(row * width, (row + 1) * width)]);
    assert.deepEqual([...wasm.f32(some, rows.length)], rows);
    wasm.fn.scatter_rows(index.length, width, list, some, totalAt);
    rows.forEach((value, k) => {
      const at = index[Math.floor(k / width)]! * width + (k % width);
      total[at]! += value;
    });
    assert.deepEqual([...wasm.f32(totalAt, total.length)], [...total]);
  }
});
