/** Plans and runs of the sampled kernel on one thread. */
import { runJob } from '../../../workers/job.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { type SampledResult, sampledJob } from '../../../workers/kernels/sampled/job.js';
import type { SampledPlan } from '../../../workers/kernels/sampled/plan/plan.js';
import { planSampled } from '../../../workers/kernels/sampled/plan/stages.js';
import { runSampledTask } from '../../../workers/kernels/sampled/run.js';
import { type AttentionProblem, hasAttentionStates } from '../../../workers/problem.js';
import { exact, named } from '../run.js';

const wasm = loadWasm();

const outputs = (problem: AttentionProblem) => ({
  attentionOutput: false,
  inputGradients: hasAttentionStates(problem) ? ('attention' as const) : undefined,
});

export function planned(
  problem: AttentionProblem,
  keys: number | undefined,
  seed: number,
  tolerance = 0.1,
) {
  const wanted = outputs(problem);
  const needs = {
    gradients: true,
    output: false,
    inputGradients: wanted.inputGradients !== undefined,
  };
  const job = planSampled(problem, { ...wanted, keys, tolerance, needs, seed });
  return runJob(job, (task, stop) => runSampledTask(task, wasm, stop));
}

export function sampledBy(problem: AttentionProblem, plan: SampledPlan, seed: number) {
  const job = sampledJob(problem, plan, { ...outputs(problem), seed });
  return runJob(job, (task, stop) => runSampledTask(task, wasm, stop));
}

/** @param seed of the plan and of the draw. */
export const sampled = (problem: AttentionProblem, keys: number | undefined, seed: number) =>
  sampledBy(problem, planned(problem, keys, seed).plan, seed);

export const truth = (problem: AttentionProblem) =>
  named(exact(problem, wasm, false, outputs(problem).inputGradients));

/** The tasks of a stage that may run at the same time in any order, as copies on three threads. */
export function outOfOrder(
  problem: AttentionProblem,
  plan: SampledPlan,
  seed: number,
): SampledResult {
  const instances = [loadWasm(), loadWasm(), loadWasm()];
  const job = sampledJob(problem, plan, { ...outputs(problem), seed });
  let step = job.next([]);
  while (!step.done) {
    const { tasks, stride = tasks.length } = step.value;
    const results: unknown[] = [];
    for (let first = 0; first < tasks.length; first += stride) {
      const last = Math.min(first + stride, tasks.length);
      for (let k = last - 1; k >= first; k--) {
        const task = structuredClone(tasks[k]!);
        results[k] = runSampledTask(task, instances[k % instances.length]!, () => false);
      }
    }
    step = job.next(results);
  }
  return step.value;
}
