/** From the sums of all sampled rows to the figures in the answer. */

import type { Task } from '../../../job.js';
import {
  type AttentionKind,
  type ProjectionName,
  STATES,
  type StatesName,
} from '../../../problem.js';
import type { TensorData } from '../../../tensor/tensor.js';
import { CONTRACT_TOKENS, type ExactPlan, type ExactProblem } from '../../attention/plan.js';
import {
  type ErrorEstimate,
  type ErrorSums,
  estimateError,
  frobenius,
} from '../../estimate/estimate.js';
import { sumErrorEstimate } from '../../estimate/row-error.js';
import type { Sizes } from '../../estimate/state-sizes.js';
import { ROWS } from '../../inner/block.js';
import { type InputGradients, type ParameterGradients, tensorsOf } from '../../result.js';
import { CHAIN_TOKENS } from '../contract.js';
import type { DrawnSizes } from './sample.js';
import type { DrawnErrors } from './sample-states.js';

export type SumsByTensor = Readonly<Record<string, ErrorSums>>;

/** What the sampled rows of a problem say, and what they cannot. Those of its parts stand beside each other. */
export interface Samples {
  /** Of each part. */
  readonly sums: readonly SumsByTensor[];
  /** Of the draws of each wave, for the gradients of the inputs; empty: these are not wanted. */
  readonly sizes: readonly (readonly DrawnSizes[])[];
  /** Of the draws of each wave, for the gradients of attention states. */
  readonly states: readonly { readonly draws: number; readonly errors: DrawnErrors }[];
  /** |gradient|^2 of attention states. */
  readonly squares: Readonly<Partial<Record<'query' | 'key' | 'value' | 'sinks', number>>>;
  /** Relative error that rows cannot show. */
  readonly rounding: number;
}

/** After the last wave, or the last part. */
export interface EstimateTask extends Task<ErrorEstimates> {
  readonly kernel: 'exact';
  readonly step: 'estimate';
  readonly problem: ExactProblem;
  readonly totals: ParameterGradients;
  readonly samples: Samples;
  /** By role; the same tensor for all three in self-attention. */
  readonly inputGradients: InputGradients<Float32Array> | null;
  readonly kind: AttentionKind | undefined;
}

/** Relative error that sampled rows cannot show: of summation, and of rounded logits in rows that were not drawn. */
export function roundingError(plan: ExactPlan, logit: number): number {
  return summationError(plan) + logitError(logit);
}

/** A logit is rounded to float32, and its weight is off by as much of itself as the logit in numbers. */
export const logitError = (logit: number): number => 2 ** -24 * logit;
/** Roundings that a logit is off by at most: it is a sum of products of sums. A gradient of many rows averages over them. */
const ROUNDINGS = 8;

/** Of the rows of a softmax, by what they carry: by how much more than one rounding a gradient is off. */
export class Concentration {
  #sum = 0;
  #squares = 0;

  add(carried: Float32Array): void {
    let sum = this.#sum;
    let squares = this.#squares;
    for (let k = 0; k < carried.length; k++) {
      const x = carried[k]!;
      sum += x;
      squares += x * x;
    }
    this.#sum = sum;
    this.#squares = squares;
  }

  /** As independent errors of so many rows add up; a few rows make all of it where the softmax is saturated. */
  get roundings(): number {
    return this.#sum > 0 ? Math.max(1, (ROUNDINGS * Math.sqrt(this.#squares)) / this.#sum) : 1;
  }
}

/** Adds what other threads found to the first. */
export function mergeSums([first, ...others]: readonly SumsByTensor[]): void {
  for (const [name, { error, totals }] of Object.entries(first ?? {})) {
    for (const other of others) {
      const more = other[name]!;
      for (let k = 0; k < error.length; k++) error[k]! += more.error[k]!;
      for (let k = 0; k < 3; k++) totals[k]! += more.totals[k]!;
      totals[3] = Math.max(totals[3]!, more.totals[3]!);
    }
  }
}

export function estimateErrors(task: EstimateTask): ErrorEstimates {
  const { problem, totals, samples } = task;
  const { sums, rounding } = samples;
  const ofParameters = Object.fromEntries(
    tensorsOf(totals).map(([name, gradient]) => {
      const parts = sums.map((record) => record[name]!);
      const norm = frobenius(gradient);
      return [
        name,
        estimateError(parts, { norm, rounding, vanishes: norm === 0 && vanishes(problem, name) }),
      ];
    }),
  );
  return { ...ofParameters, ...inputEstimates(task) };
}

/** By the client's names of the inputs. */
function inputEstimates({ samples, inputGradients, kind }: EstimateTask): ErrorEstimates {
  const { sizes, rounding } = samples;
  const wanted = Object.entries(inputGradients ?? {}) as [StatesName, Float32Array][];
  if (!kind || wanted.length === 0) return {};
  const clusters = sizes.map(clusterMeans);
  const all = clusters.reduce((sum, { length }) => sum + length, 0);
  const rows = sizes.reduce((sum, { length }) => sum + length, 0);
  return Object.fromEntries(
    wanted.map(([name, gradient]) => {
      const roles = (['query', 'key', 'value'] as const).filter((r) => STATES[kind][r] === name);
      // Waves add up: each stands for itself, whatever its share of the draws.
      const values = clusters.flatMap((wave) =>
        wave.map((one) => (all / wave.length) * roles.reduce((sum, role) => sum + one[role], 0)),
      );
      return [name, sumErrorEstimate(values, { rows, norm: frobenius(gradient), rounding })];
    }),
  );
}

/** Rows of a cluster depend on each other: their mean is one draw. */
function clusterMeans(drawn: readonly DrawnSizes[]): Sizes[] {
  return [...new Set(drawn.map(({ cluster }) => cluster))].map((cluster) => {
    const mine = drawn.filter((one) => one.cluster === cluster);
    const mean = (role: keyof Sizes) => mine.reduce((sum, one) => sum + one[role], 0) / mine.length;
    return { query: mean('query'), key: mean('key'), value: mean('value') };
  });
}

/** Whether a gradient is 0 whatever the softmax: its adapter's other factor is 0, G is, or rows see one key each. */
export function vanishes(problem: ExactProblem, name: string): boolean {
  const [projection, tensor] = name.split('.') as [ProjectionName | 'sinks', string];
  const isZero = (data: TensorData) => data.every((x) => x === 0);
  const { objective, dims } = problem;
  if (objective?.kind === 'grad_output' && isZero(objective.tensor.data)) return true;
  if (projection === 'sinks') return false;
  const { A, B } = problem.projections[projection].adapter!;
  if (isZero((tensor === 'lora_A' ? B : A).data)) return true;
  return projection !== 'v_proj' && dims.keyLength === 1;
}

export type ErrorEstimates = Readonly<Record<string, ErrorEstimate>>;

/**
 * Relative error of sums of float32: each of n additions rounds a partial sum, half of the whole on average, by at most
 * 2^-24. Where terms are alike, as under a pooled loss, they round alike, too, and no random walk keeps that small. So chains are short: a
 * partition's over the rows of a block and over its blocks, a contraction's over CHAIN_TOKENS and over as many of them as
 * CONTRACT_TOKENS has; all longer sums are made in float64.
 */
function summationError(plan: ExactPlan): number {
  const { queryLength, keyLength } = plan.problem.dims;
  const chain = (terms: number, block: number) => Math.min(terms, block) + Math.ceil(terms / block);
  const blocks = Math.ceil(plan.blocks / plan.partitions);
  const tokens = Math.min(Math.max(queryLength, keyLength), CONTRACT_TOKENS);
  const additions = chain(Math.min(queryLength, ROWS * blocks), ROWS) + chain(tokens, CHAIN_TOKENS);
  return 2 ** -25 * additions;
}
