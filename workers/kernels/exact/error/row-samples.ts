/**
 * Rows of a problem that are looked at twice: drawn when a wave has been attended to, done beside its contraction. What
 * they say of rounding is that of the kernel with all keys, whatever keys the sums were made of.
 */
import { type AttentionProblem, hasAttentionStates } from '../../../problem.js';
import { type ExactPlan, type Workspace, wavesOf } from '../../attention/plan.js';
import { makeErrorSums } from '../../estimate/estimate.js';
import type { Cut } from '../../parts/cut.js';
import { seedOf, shareOf } from '../../parts/take.js';
import { type InputGradients, type ParameterGradients, ROLES, tensorsOf } from '../../result.js';
import type { FullTask } from '../full.js';
import { headsOfWave, isBrief } from '../tasks.js';
import { sampleTasks } from './draw.js';
import { Concentration, roundingError, type Samples } from './estimate.js';
import { largestLogit, largestOf, lengthOf } from './logits.js';
import type { DrawnSizes, SampleTask } from './sample.js';
import {
  addErrors,
  type DrawnErrors,
  noErrors,
  type StateSampleTask,
  stateSampleTasks,
} from './sample-states.js';

/** How many rows to look at twice, and the seed of their draw. */
export interface RowDraws {
  readonly rows: number;
  readonly seed: number;
}

/** Tasks that share the sampling of a wave, unless all is one task. Each has sums as large as the gradients. */
const SAMPLERS = 4;
/** Rows of a wave, or of a part, that say how much they scatter. */
const LEAST_DRAWS = 4;
/** Passes over the inputs for the keys' adapter under rotary positions: each row takes its rank of them. */
const ROTATED_PASSES = 192;

/** Enough rows for a figure of the right size, at a small share of the cost. */
export function rowsForEstimate({ dims, rotary, projections }: AttentionProblem): number {
  const all = dims.batch * dims.heads * dims.queryLength;
  const rows = Math.min(32, Math.max(8, Math.min(16, Math.ceil(all / 32)), Math.ceil(all / 128)));
  const rank = rotary ? (projections.k_proj.adapter?.rank ?? 0) : 0;
  return rank ? Math.min(rows, Math.max(8, Math.floor(ROTATED_PASSES / rank))) : rows;
}

/** The draws of a part of a problem: its share of them, and a seed of its own. */
export function drawsOfPart(
  problem: AttentionProblem,
  { rows, seed }: RowDraws,
  cut: Cut,
  part: number,
): RowDraws {
  const share = Math.ceil(rows * shareOf(problem, cut));
  return { rows: Math.max(LEAST_DRAWS, share), seed: seedOf(seed, part) };
}

/** What the rows of a wave carry to gradients of values and queries, and of keys; where G is in it, before it cancels in dS. */
const FAMILIES: readonly ((of: Workspace, rows: number) => Float32Array)[] = [
  ({ normG }, rows) => normG.subarray(0, rows),
  ({ normS }, rows) => normS.subarray(0, rows),
  ({ normQS }, rows) => normQS.subarray(0, rows),
  (workspace, rows) => {
    const longest = largestOf(workspace.largestQ);
    const carried = workspace.normG.slice(0, rows);
    for (let i = 0; i < rows; i++) carried[i]! *= lengthOf(workspace, i, longest);
    return carried;
  },
];

export class RowSamples {
  readonly #plan: ExactPlan;
  readonly #workspace: Workspace;
  /** null: no rows are wanted, or there is nothing to measure. */
  readonly #draws: RowDraws | null;
  readonly #isStates: boolean;
  readonly #samplers: number;
  readonly #sums: SampleTask['sums'][];
  readonly #sizes: DrawnSizes[][] = [];
  readonly #states: { draws: number; errors: DrawnErrors }[] = [];
  readonly #squares: { -readonly [Name in keyof Samples['squares']]: number } = {};
  readonly #concentrations = FAMILIES.map(() => new Concentration());
  #logit = 0;

  constructor(
    plan: ExactPlan,
    workspace: Workspace,
    totals: ParameterGradients,
    inputGradients: InputGradients<Float32Array> | null,
    draws: RowDraws | null,
  ) {
    const wanted = tensorsOf(totals).length > 0 || inputGradients !== null;
    this.#plan = plan;
    this.#workspace = workspace;
    this.#draws = wanted ? draws : null;
    this.#isStates = hasAttentionStates(plan.problem) && inputGradients !== null;
    this.#samplers = isBrief(plan) ? 1 : SAMPLERS;
    this.#sums = Array.from({ length: this.#draws && !this.#isStates ? this.#samplers : 0 }, () =>
      makeErrorSums(tensorsOf(totals).map(([name, x]) => [name, x.length])),
    );
  }

  /** Tasks of a wave whose attention stage is done. */
  tasks(wave: number): (SampleTask | StateSampleTask)[] {
    const [plan, workspace, draws] = [this.#plan, this.#workspace, this.#draws];
    const { batch, heads, queryLength } = plan.problem.dims;
    this.#logit = Math.max(this.#logit, largestLogit(plan, workspace));
    const rows = headsOfWave(plan, wave).length * queryLength;
    for (const [k, carried] of FAMILIES.entries()) {
      this.#concentrations[k]!.add(carried(workspace, rows));
    }
    if (!draws) return [];
    const share = rows / (batch * heads * queryLength);
    const count = Math.max(LEAST_DRAWS, Math.ceil(draws.rows * share));
    if (this.#isStates) {
      this.#states.push({ draws: count, errors: noErrors() });
      return stateSampleTasks(plan, workspace, wave, count, draws.seed, this.#samplers);
    }
    this.#sizes.push([]);
    return sampleTasks(plan, workspace, wave, count, draws.seed, this.#sums);
  }

  /** What the tasks of the last wave, and those at full width, have found. */
  take(tasks: readonly { readonly step: string }[], results: readonly unknown[]): void {
    tasks.forEach((task, k) => {
      if (task.step === 'sample') this.#sizes.at(-1)!.push(...(results[k] as DrawnSizes[]));
      if (task.step === 'sample_states') {
        addErrors(this.#states.at(-1)!.errors, results[k] as DrawnErrors);
      }
      if (task.step !== 'full' || !this.#isStates) return;
      const role = ROLES[(task as FullTask).projection];
      this.#squares[role] = (this.#squares[role] ?? 0) + (results[k] as number);
    });
  }

  /** Sums by sampler, to be merged into the first after the last wave. */
  sumsToMerge(wave: number): readonly SampleTask['sums'][] {
    return wave === wavesOf(this.#plan) - 1 ? this.#sums : [];
  }

  /** After the last wave. */
  samples({ sinks }: ParameterGradients): Samples {
    const ofSinks = this.#isStates && sinks && { sinks: sinks.reduce((sum, x) => sum + x * x, 0) };
    return {
      sums: this.#sums.slice(0, 1),
      ...{ sizes: this.#sizes, states: this.#states, squares: { ...this.#squares, ...ofSinks } },
      rounding: roundingError(
        this.#plan,
        Math.max(...this.#concentrations.map(({ roundings }) => roundings)) * this.#logit,
      ),
    };
  }
}
