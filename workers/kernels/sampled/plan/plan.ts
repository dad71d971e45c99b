/** What a sampled gradient is made by: a basis and a number of coordinates for each head, one scale for all draws. */
import type { Dimensions } from '../../../problem.js';
import type { TensorData } from '../../../tensor/tensor.js';
import type { Name } from './scale.js';

/** Coordinates of a proxy: with what the others leave out they fill words of four bytes. */
export const COORDINATES = [15, 31, 63] as const;

/** The plan looks at one in SHARE blocks of a head, within limits of a head and of all heads together. */
const SHARE = 64;
const [FEWEST, MOST, MOST_OF_ALL] = [2, 6, 24];

/** Number of blocks of each head that the plan looks at: how well they tell the variance does not depend on the length. */
export const looksAt = (blocks: number, heads: number): number =>
  Math.max(FEWEST, Math.min(MOST, Math.round(blocks / SHARE), Math.ceil(MOST_OF_ALL / heads)));

/** Keys on either side of a block that are not drawn but taken. */
export const NEAR = 128;

/** Logits of a head in balanced coordinates (low-rank/features/balance.ts), in powers of two. */
export interface Basis {
  /**
   * (d, d + 1) each: x = q queryMap + queryShift and z = k keyMap + keyShift have log2(e) beta q.k = sum of the first d
   * products + the last number of x + that of z; the products fall in size.
   */
  readonly queryMap: TensorData;
  readonly keyMap: TensorData;
  readonly queryShift: TensorData;
  readonly keyShift: TensorData;
}

export interface HeadPlan {
  readonly basis: Basis;
  /** Coordinates of the proxy; 0: the head is computed exactly. */
  readonly coordinates: number;
  /** Expected variance of its draws: the sum over query, key and value, each relative to the squared gradient of all heads. */
  readonly variance: number;
}

export interface SampledPlan {
  /** n, mean number of far keys drawn for a block of 64 rows. */
  readonly keys: number;
  /** c: key j is drawn for a block b with probability min(1, c p_bj). One for all blocks and heads. */
  readonly scale: number;
  /** Query heads of a batch item one after the other. */
  readonly heads: readonly HeadPlan[];
  /** Expected variances of all draws, each relative to the squared gradient. */
  readonly variances: Readonly<Record<Name, number>>;
  /** Share of these draws in the answer: 1, or less where they top up a first run. */
  readonly share: number;
  /** Flops of the exact kernel that take as long. */
  readonly work: number;
  /** The part of them that grows with the length; the rest grows with its square. */
  readonly linearWork: number;
  /** Upper limit of the relative error to expect, of this run and the first one together. */
  readonly predictedError: number;
  readonly meetsTolerance: boolean;
  /** What other numbers of keys would come to, rising. */
  readonly tried: readonly {
    readonly keys: number;
    readonly error: number;
    readonly work: number;
  }[];
}

/** Bytes that the keys of a head may take in the memory of one thread, with room for half of them as a list. */
const MEMORY = 512 * 2 ** 20;

/** Keys at most, of heads of this width. */
export function mostKeys({ headDim, valueDim }: Dimensions): number {
  const floats = 4.5 * (headDim + valueDim) + 400;
  return 2 ** Math.floor(Math.log2(MEMORY / (4 * floats)));
}
