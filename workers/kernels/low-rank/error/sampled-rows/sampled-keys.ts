/**
 * What sampled query rows contribute to the error of the keys' adapter at full width. With e_ij the error of
 * dS_ij and R_j the rotation of key j, row i has the share z_j = R_j'(e_ij q_i) in the error of dK_j, and
 *
 *     d lora_A_K: (Z B_K)'X^K (r, inputs)          d lora_B_K: Z'(X^K A_K') (d, r)
 *
 * The chain's dS differs from direction to direction of Q by the number of features (hyperbolic-cross.ts): e_ij q_i is
 * a sum over the few lengths of prefixes.
 */
import type { Real } from '../../arithmetic/arithmetic.js';
import { maskScores } from '../../chain/keys.js';
import type { HyperbolicCross } from '../../features/hyperbolic-cross.js';
import { BLOCK } from '../../head/block.js';
import { keyRows } from '../../head/rows/key-rows.js';
import type { Workspace } from '../../head/workspace.js';
import { approximateRows, keyFeatures, rowFeatures } from './chain-rows.js';
import { type ComparedGradient, comparedGradient, type SampledRun } from './sampled-run.js';

/** Rows [from, to) of the list of sampled rows. */
export interface SampledRange {
  readonly from: number;
  readonly to: number;
}

/** Sampled rows of a task. */
const RANGE = 24;

/** The ranges of `rows` sampled rows. */
export function rangesOf(rows: number): SampledRange[] {
  return Array.from({ length: Math.ceil(rows / RANGE) }, (_, k) => ({
    from: k * RANGE,
    to: Math.min(rows, (k + 1) * RANGE),
  }));
}

/** Adds the shares of a range of rows to sampled.keyErrors. */
export function sampledKeyPass(
  space: Workspace,
  sampled: SampledRun,
  { from, to }: SampledRange,
): void {
  const { arithmetic, head, plan } = space;
  const { d, dv, key } = head;
  const { inputs } = key.effective;
  const hyperbolicCross = plan.hyperbolicCross.left!;
  const lengths = [...new Set(hyperbolicCross.prefix)].sort((a, b) => a - b);
  const state = part(comparedGradient(space, sampled), from, to, d, dv);
  const { rows } = state;
  const n = to - from;
  const perLength = queryParts(space, hyperbolicCross, lengths, rows.l, n);
  const features = arithmetic.array(plan.m * n);
  const range = { ...sampled.run, sampledRows: rowsOf(sampled, from, to) };
  arithmetic.transpose(n, plan.m, rowFeatures(space, rows, range), features);
  const keys = keyRows(space, BLOCK);
  const phi = arithmetic.array(plan.m * BLOCK);
  const keysTransposed = arithmetic.array(d * BLOCK);
  const valuesTransposed = arithmetic.array(dv * BLOCK);
  const [exact, t, chainT, sum] = Array.from({ length: 4 }, () => arithmetic.array(n * BLOCK));
  const approximate = lengths.map(() => arithmetic.array(n * BLOCK));
  const [total, factor] = [arithmetic.array(n), arithmetic.array(n)];
  const errors = arithmetic.array(lengths.length * BLOCK);
  const z = arithmetic.array(BLOCK * d);
  const zB = arithmetic.array(BLOCK * key.rank);
  const up = arithmetic.pack(d, key.rank, key.up);
  const packedX = arithmetic.pack(BLOCK, inputs, arithmetic.array(BLOCK * inputs));
  const packedLow = arithmetic.pack(BLOCK, key.rank, arithmetic.array(BLOCK * key.rank));
  const [sizeA, sizeB] = [key.rank * inputs, d * key.rank];
  const [lowA, lowB] = [arithmetic.array(n * sizeA), arithmetic.array(n * sizeB)];

  for (let start = 0; start < head.keyLength; start += BLOCK) {
    const count = Math.min(BLOCK, head.keyLength - start);
    keys.load((r) => start + r, count);
    arithmetic.transpose(count, d, keys.k, keysTransposed);
    arithmetic.transpose(count, dv, keys.v, valuesTransposed);
    arithmetic.gemm(n, count, d, rows.scaled, keysTransposed, exact);
    maskScores(head.causal, rows, keys.index, count, exact);
    arithmetic.softmax(n, count, exact, state.max, total, factor);
    keyFeatures(space, keys, phi);
    sum.fill(0);
    lengths.forEach((length, g) => {
      const before = g > 0 ? lengths[g - 1] : 0;
      const [a, b] = [features.subarray(before * n), phi.subarray(before * BLOCK)];
      arithmetic.transposedGemm(n, BLOCK, length - before, a, b, sum, true);
      approximate[g].set(sum);
      approximateRows(space, range, state, keys, exact, approximate[g]);
    });
    // The largest direction has all m features.
    const whole = approximate[lengths.length - 1];
    arithmetic.gemm(n, count, dv, state.gradient, valuesTransposed, t);
    arithmetic.gemm(n, count, dv, state.approximate, valuesTransposed, chainT);
    arithmetic.scoreGradient(n, count, exact, t, state.inverse, state.shift);
    arithmetic.repack(packedX, keys.xk);
    arithmetic.repack(packedLow, keys.low);
    z.fill(0);
    for (let i = 0; i < n; i++) {
      const shift = state.approximateShift[i];
      for (let g = 0; g < lengths.length; g++) {
        for (let j = 0, at = i * count; j < count; j++, at++) {
          const low = approximate[g][at] * chainT[at] - whole[at] * shift;
          errors[g * count + j] = t[at] - low;
        }
      }
      arithmetic.transposedGemm(count, d, lengths.length, errors, perLength[i], z);
      keys.rotation?.back(count, z);
      arithmetic.product(BLOCK, z, up, zB);
      const [a, b] = [lowA.subarray(i * sizeA), lowB.subarray(i * sizeB)];
      arithmetic.transposedProduct(key.rank, zB, packedX, a, true);
      arithmetic.transposedProduct(d, z, packedLow, b, true);
    }
  }
  const errorsOf = sampled.keyErrors!;
  for (let i = 0; i < n * sizeA; i++) errorsOf.lowA[from * sizeA + i] += lowA[i];
  for (let i = 0; i < n * sizeB; i++) errorsOf.lowB[from * sizeB + i] += lowB[i];
}

const rowsOf = ({ run }: SampledRun, from: number, to: number): Float64Array => {
  const width = run.sampledRows.length / Math.max(1, run.sampled.length);
  return run.sampledRows.subarray(from * width, to * width);
};

/** The rows [from, to) of everything. */
function part(
  state: ComparedGradient,
  from: number,
  to: number,
  d: number,
  dv: number,
): ComparedGradient {
  const cut = (x: Real, width: number) => x.subarray(from * width, to * width);
  const { rows } = state;
  return {
    ...state,
    rows: {
      ...rows,
      count: to - from,
      index: rows.index.subarray(from, to),
      x: cut(rows.x, d),
      l: cut(rows.l, d),
      scaled: cut(rows.scaled, d),
    },
    max: cut(state.max, 1),
    inverse: cut(state.inverse, 1),
    gradient: cut(state.gradient, dv),
    approximate: cut(state.approximate, dv),
    shift: cut(state.shift, 1),
    approximateShift: cut(state.approximateShift, 1),
  };
}

/** For each query its share in the directions of each length of prefix, in the coordinates of K: (lengths, d). */
function queryParts(
  space: Workspace,
  { prefix, vectors }: HyperbolicCross,
  lengths: readonly number[],
  l: Real,
  n: number,
): Real[] {
  const { arithmetic, head } = space;
  const { d } = head;
  const back = arithmetic.array(d * d);
  const directions = arithmetic.array(d * d);
  directions.set(vectors);
  arithmetic.transpose(d, d, directions, back);
  const packed = arithmetic.pack(d, d, back);
  const masked = arithmetic.array(lengths.length * d);
  return Array.from({ length: n }, (_, i) => {
    const parts = arithmetic.array(lengths.length * d);
    lengths.forEach((length, g) => {
      for (let c = 0; c < d; c++) masked[g * d + c] = prefix[c] === length ? l[i * d + c] : 0;
    });
    arithmetic.product(lengths.length, masked, packed, parts);
    return parts;
  });
}
