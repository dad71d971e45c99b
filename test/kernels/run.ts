/** Kernels on one thread, and how far two answers are apart. */
import type { AttentionProblem } from '../../src/lora/problem.js';
import { type ExactTask, exactJob, runExactTask } from '../../workers/kernels/exact/gradient.js';
import { type Job, runJob } from '../../workers/kernels/job.js';
import { referenceJob, runReferenceTask } from '../../workers/kernels/reference/gradient.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import type { Wasm } from '../../workers/kernels/wasm/instance.js';

export function exact(problem: AttentionProblem, wasm: Wasm, attentionOutput = false) {
  const job = exactJob(problem, { attentionOutput });
  return runJob(job, (task, cancelled) => runExactTask(task, wasm, cancelled));
}

export function reference(problem: AttentionProblem): GradientResult {
  return runJob(referenceJob(problem, { attentionOutput: true }), runReferenceTask);
}

/** The exact job with its tasks dealt out to several instances, in an order of the caller's choice. */
export function exactOnMany(
  problem: AttentionProblem,
  instances: readonly Wasm[],
  order: (tasks: number) => number[],
): GradientResult {
  const job: Job<GradientResult, ExactTask> = exactJob(problem, { attentionOutput: true });
  let step = job.next([]);
  while (!step.done) {
    const { tasks } = step.value;
    const results: unknown[] = [];
    order(tasks.length).forEach((index, turn) => {
      // As on its way to a thread: a clone, with shared buffers still shared.
      const task = structuredClone(tasks[index]!);
      results[index] = runExactTask(task, instances[turn % instances.length]!, () => false);
    });
    step = job.next(results);
  }
  return step.value;
}

/** Gradients by name: 'q_proj.lora_A', ... */
export function named(result: GradientResult): Map<string, Float64Array> {
  const names = new Map<string, Float64Array>();
  for (const [projection, gradient] of Object.entries(result.gradients)) {
    names.set(`${projection}.lora_A`, gradient.lora_A);
    names.set(`${projection}.lora_B`, gradient.lora_B);
  }
  return names;
}

type Floats = Float32Array | Float64Array;

export function norm(x: Floats): number {
  let sum = 0;
  for (const value of x) sum += value * value;
  return Math.sqrt(sum);
}

/** Frobenius norm of the difference. */
export function distance(a: Floats, b: Floats): number {
  let sum = 0;
  for (let k = 0; k < a.length; k++) sum += (a[k]! - b[k]!) ** 2;
  return Math.sqrt(sum);
}
