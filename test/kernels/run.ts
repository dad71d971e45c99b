/** Kernels on one thread, and how far two answers are apart. */

import { runJob } from '../../workers/job.js';
import {
  type ExactOptions,
  type ExactResult,
  exactJob,
  exactStages,
} from '../../workers/kernels/exact/gradient.js';
import { runExactTask } from '../../workers/kernels/exact/run.js';
import type { Wasm } from '../../workers/kernels/inner/instance.js';
import { referenceJob } from '../../workers/kernels/reference/gradient.js';
import { runReferenceTask } from '../../workers/kernels/reference/operations.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import type { AttentionKind, AttentionProblem } from '../../workers/problem.js';

export function exact(
  problem: AttentionProblem,
  wasm: Wasm,
  attentionOutput = false,
  inputGradients?: AttentionKind,
) {
  const job = exactJob(problem, { attentionOutput, inputGradients });
  return runJob(job, (task, cancelled) => runExactTask(task, wasm, cancelled));
}

export function reference(
  problem: AttentionProblem,
  inputGradients?: AttentionKind,
): GradientResult {
  const outputs = { attentionOutput: true, inputGradients };
  return runJob(referenceJob(problem, outputs), runReferenceTask);
}

/** The exact job with its tasks dealt out to several instances, in an order of the caller's choice. */
export function exactOnMany(
  problem: AttentionProblem,
  instances: readonly Wasm[],
  order: (tasks: number) => number[],
  outputs: Omit<ExactOptions, 'attentionOutput'> = {},
): ExactResult {
  const job = exactStages(problem, { attentionOutput: true, ...outputs });
  let step = job.next([]);
  while (!step.done) {
    const { tasks, stride = tasks.length } = step.value;
    const results: unknown[] = [];
    for (let first = 0; first < tasks.length; first += stride) {
      order(Math.min(stride, tasks.length - first)).forEach((place, turn) => {
        // As on its way to a thread: a clone, with shared buffers still shared.
        const task = structuredClone(tasks[first + place]!);
        const instance = instances[turn % instances.length]!;
        results[first + place] = runExactTask(task, instance, () => false);
      });
    }
    step = job.next(results);
  }
  return step.value;
}

/** Gradients by name: 'q_proj.lora_A', ..., 'hidden_states', ... */
export function named(result: GradientResult): Map<string, Floats> {
  const names = new Map<string, Floats>(Object.entries(result.inputGradients ?? {}));
  for (const [projection, gradient] of Object.entries(result.gradients)) {
    names.set(`${projection}.lora_A`, gradient.lora_A);
    names.set(`${projection}.lora_B`, gradient.lora_B);
  }
  if (result.sinks) names.set('sinks', result.sinks);
  return names;
}

type Floats = Float32Array | Float64Array;

export function norm(x: ArrayLike<number>): number {
  let sum = 0;
  for (let k = 0; k < x.length; k++) sum += x[k]! * x[k]!;
  return Math.sqrt(sum);
}

/** Frobenius norm of the difference. */
export function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let k = 0; k < a.length; k++) sum += (a[k]! - b[k]!) ** 2;
  return Math.sqrt(sum);
}
