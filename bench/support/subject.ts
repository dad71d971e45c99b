/** What is measured: a random problem, and our kernel on worker threads. */

import { WorkerPool } from '../../src/pool/worker-pool.js';
import { randomProblem } from '../../test/kernels/problems.js';
import { exactJob } from '../../workers/kernels/exact/gradient.js';
import type { KernelChoice } from '../../workers/kernels/inner/load.js';
import type { AttentionProblem } from '../../workers/problem.js';

export const RANK = 8;
const WARM_UP_MS = 30_000;

/** 'qv': adapters on the query and value projections. */
export type Adapters = 'qv' | 'qkv';

export const adapterSet = (adapters: string) => `{${[...adapters].join(', ')}}`;

export interface Size {
  readonly length: number;
  readonly dim: number;
  readonly adapters: Adapters;
  readonly batch?: number;
  readonly heads?: number;
}

export function makeProblem({ length, dim, adapters, batch = 1, heads = 1 }: Size) {
  const ranks = Object.fromEntries([...adapters].map((name) => [name, RANK]));
  const inFeatures = heads * dim;
  const seed = 1;
  return randomProblem({
    seed,
    queryLength: length,
    headDim: dim,
    inFeatures,
    batch,
    heads,
    ranks,
  });
}

/** @param kernels by default what the service chooses. */
export function startPool(workers: number, kernels: KernelChoice = 'auto'): Promise<WorkerPool> {
  return WorkerPool.start({ workers, warmUpMs: WARM_UP_MS, kernels });
}

/** Seconds of the exact kernel. */
export async function exactSeconds(pool: WorkerPool, problem: AttentionProblem): Promise<number> {
  const { signal } = new AbortController();
  const start = performance.now();
  await pool.run(exactJob(problem, { attentionOutput: false }), { signal });
  return (performance.now() - start) / 1000;
}

/** The last problem is kept: the sides of a setting ask for the same one again and again. */
export function problems(): (size: Size) => AttentionProblem {
  let key = '';
  let last: AttentionProblem | null = null;
  return (size) => {
    const { length, dim, adapters, batch, heads } = size;
    const wanted = JSON.stringify([length, dim, adapters, batch, heads]);
    if (last === null || wanted !== key) last = makeProblem(size);
    key = wanted;
    return last;
  };
}
