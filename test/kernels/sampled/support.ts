/** The sampled kernel in this thread, and what tests ask it about attention states. */
import { type Job, runJob } from '../../../workers/job.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { runSampledTask, type SampledTask } from '../../../workers/kernels/sampled/run.js';

export const wasm = loadWasm();
export const run = <R>(job: Job<R, SampledTask>) =>
  runJob(job, (task, stop) => runSampledTask(task, wasm, stop));

export const outputs = { attentionOutput: false, inputGradients: 'attention' } as const;
export const needs = { gradients: true, output: false, inputGradients: true };
