/** Decompositions of symmetric matrices, beside those of the library. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CholeskyDecomposition, EigenvalueDecomposition, Matrix } from 'ml-matrix';
import { NumericError } from '../../../workers/job.js';
import { choleskyFactor } from '../../../workers/kernels/low-rank/features/decompose.js';
import { eigensystem } from '../../../workers/kernels/low-rank/features/eigensystem.js';
import { Random } from '../../../workers/kernels/random.js';
import { testSeed } from '../../support/random.js';

const SEED = testSeed();

/** B B' for B (n, r), with entries of that size. */
function gram(n: number, r: number, size = 1): Float64Array {
  const random = new Random(SEED + n);
  const b = Array.from({ length: n }, () =>
    Array.from({ length: r }, () => random.uniform() - 0.5),
  );
  return Float64Array.from({ length: n * n }, (_, k) => {
    const [i, j] = [Math.floor(k / n), k % n];
    return b[i].reduce((sum, x, c) => sum + size * x * b[j][c], 0);
  });
}

const stop = () => {
  throw new Error('stopped');
};

const diagonal = (values: readonly number[]) =>
  Float64Array.from({ length: values.length ** 2 }, (_, k) => {
    const [i, j] = [Math.floor(k / values.length), k % values.length];
    return i === j ? values[i] : 0;
  });

const indefinite = (n: number) => gram(n, n).map((x, k) => (k % (n + 1) === 0 ? x - n / 12 : x));

const CASES: Readonly<Record<string, Float64Array>> = {
  'one number': gram(1, 1),
  'two rows': gram(2, 2),
  'full rank': gram(60, 60),
  'rank 2': gram(40, 2),
  indefinite: indefinite(33),
  'all zero': diagonal([0, 0, 0, 0]),
  'the same value many times': diagonal([3, 3, 3, -1, 3]),
  'values of very different sizes': diagonal([1e-30, 1, 1e30, 1e12]),
  'large numbers': gram(20, 20, 1e150),
  'small numbers': gram(20, 20, 1e-150),
};

for (const [name, matrix] of Object.entries(CASES)) {
  test(`eigensystem: ${name}`, () => {
    const n = Math.sqrt(matrix.length);
    const { values, vectors } = eigensystem(matrix, n, () => {});
    const { realEigenvalues } = new EigenvalueDecomposition(Matrix.from1DArray(n, n, matrix), {
      assumeSymmetric: true,
    });
    const sorted = (x: Iterable<number>) => Float64Array.from(x).sort();
    const [ours, theirs] = [sorted(values), sorted(realEigenvalues)];
    const largest = Math.max(...theirs.map(Math.abs));
    const bound = 100 * n * Number.EPSILON;
    for (let i = 0; i < n; i++) {
      assert.ok(Math.abs(ours[i] - theirs[i]) <= bound * largest, `value ${i}`);
      for (let j = 0; j < n; j++) {
        let [overlap, entry] = [0, 0];
        for (let k = 0; k < n; k++) {
          overlap += vectors[k * n + i] * vectors[k * n + j];
          entry += vectors[i * n + k] * values[k] * vectors[j * n + k];
        }
        assert.ok(Math.abs(overlap - Number(i === j)) <= bound, `columns ${i} and ${j}`);
        assert.ok(Math.abs(entry - matrix[i * n + j]) <= bound * largest, `entry ${i}, ${j}`);
      }
    }
  });
}

test('eigensystem: can be stopped at every column and every sweep', () => {
  const n = 64;
  let polls = 0;
  eigensystem(gram(n, n), n, () => polls++);
  // Twice for each column, and once or more for each eigenvalue but the last.
  assert.ok(polls >= 3 * (n - 1), `${polls} polls`);
  assert.throws(() => eigensystem(gram(n, n), n, stop), /stopped/);
});

test('eigensystem: numbers that are too large are refused', () => {
  assert.throws(() => eigensystem(diagonal([Number.NaN, 1]), 2, () => {}), NumericError);
  assert.throws(
    () =>
      eigensystem(
        gram(8, 8, 1e308).map((x) => 1e8 * x),
        8,
        () => {},
      ),
    NumericError,
  );
});

/** B B' and something on its diagonal. */
const definite = (n: number, size = 1) =>
  gram(n, n, size).map((x, k) => (k % (n + 1) === 0 ? x + size : x));

for (const n of [0, 1, 5, 64, 65, 150, 256]) {
  test(`Cholesky factor of ${n} columns: that of the library, and it can be stopped at every row`, () => {
    const matrix = definite(n);
    let polls = 0;
    const ours = choleskyFactor(matrix, n, () => polls++);
    assert.ok(polls >= n - 64, `${polls} polls`);
    const library = new CholeskyDecomposition(Matrix.from1DArray(n, n, matrix));
    const theirs = library.lowerTriangularMatrix.to1DArray();
    const largest = Math.max(0, ...theirs.map(Math.abs));
    ours.forEach((x, k) => {
      assert.ok(Math.abs(x - theirs[k]) <= 100 * n * Number.EPSILON * largest, `entry ${k}`);
    });
    if (n > 0) assert.throws(() => choleskyFactor(matrix, n, stop), /stopped/);
  });
}

test('Cholesky factor: numbers that are too large, and matrices that have none, are refused', () => {
  const infinite = definite(80, 1e308).map((x) => 1e8 * x);
  for (const [n, matrix] of [
    [80, infinite],
    [3, diagonal([1, Number.NaN, 1])],
    [100, diagonal(Array.from({ length: 100 }, (_, k) => (k === 50 ? 0 : 1))).fill(1, 0, 10_000)],
  ] as const) {
    assert.throws(() => choleskyFactor(matrix, n, () => {}), NumericError);
  }
});
