/** The chain as a job: three passes over the rows of every head, and what they add up to. */
import type { AttentionProblem } from '../../../src/lora/problem.js';
import type { Job } from '../job.js';
import type { HeadGradients } from './gradient.js';
import type { Head } from './head.js';
import { TENSORS, type TensorName } from './layout.js';
import type { HeadRun } from './run.js';
import type { LowRankTask } from './task.js';

/** Heads whose sums are in memory at the same time. */
const WAVE = 8;

export interface ChainResult {
  /** Each (r, in) or (out, r) as in PEFT; empty for a frozen projection. */
  readonly gradients: Record<TensorName, Float64Array>;
}

/** `after` sees every wave of heads while its sums are in memory. */
export function* chainJob(
  problem: AttentionProblem,
  heads: number,
  open: (index: number) => HeadRun,
  after: (runs: readonly HeadRun[]) => Job<void, LowRankTask>,
): Job<ChainResult, LowRankTask> {
  const gradients = emptyGradients(problem);
  for (let first = 0; first < heads; first += WAVE) {
    const runs = Array.from({ length: Math.min(WAVE, heads - first) }, (_, i) => open(first + i));
    for (const step of ['keys', 'queries', 'left'] as const) {
      yield {
        name: step,
        tasks: runs.flatMap((run) =>
          run.segments.map((_, segment) => ({ kernel: 'low_rank' as const, step, run, segment })),
        ),
      };
    }
    const parts = yield {
      name: 'gradients',
      tasks: runs.map((run) => ({ kernel: 'low_rank' as const, step: 'gradients' as const, run })),
    };
    runs.forEach((run, i) => {
      addHead(gradients, run.head, parts[i] as HeadGradients);
    });
    yield* after(runs);
  }
  return { gradients };
}

export function emptyGradients(problem: AttentionProblem): Record<TensorName, Float64Array> {
  const { q_proj, k_proj, v_proj } = problem.projections;
  const sizes = [q_proj, k_proj, v_proj].flatMap((p) => {
    const rank = p.adapter?.rank ?? 0;
    return [rank * p.inFeatures, rank * p.outFeatures];
  });
  return Object.fromEntries(TENSORS.map((name, t) => [name, new Float64Array(sizes[t])])) as Record<
    TensorName,
    Float64Array
  >;
}

/** Where tensor t of a head stands in the whole tensor: lora_A is shared, lora_B has rows per head. */
export function tensorOffset(head: Head, t: number): number {
  const { d, dv, query, key, value } = head;
  return [
    0,
    head.head * d * query.rank,
    0,
    head.keyValueHead * d * key.rank,
    0,
    head.keyValueHead * dv * value.rank,
  ][t];
}

function addHead(
  total: Record<TensorName, Float64Array>,
  head: Head,
  part: Record<TensorName, Float64Array>,
): void {
  TENSORS.forEach((name, t) => {
    const offset = tensorOffset(head, t);
    const [to, from] = [total[name], part[name]];
    for (let i = 0; i < from.length; i++) to[offset + i] += from[i];
  });
}
