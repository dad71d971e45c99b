/** The first task of every worker: loads the kernels and waits until all workers have come that far. */
import type { AttentionProblem, Projection } from '../src/lora/problem.js';
import type { Tensor } from '../src/tensor/tensor.js';
import { exactJob, runExactTask } from './kernels/exact/gradient.js';
import { type Cancelled, CancelledError, runJob, type Task } from './kernels/job.js';
import { referenceJob, runReferenceTask } from './kernels/reference/gradient.js';
import type { Wasm, WasmMode } from './kernels/wasm/instance.js';

export interface WarmUpTask extends Task {
  readonly kernel: 'warm_up';
  /** Counts the workers that have arrived; one element over a SharedArrayBuffer. */
  readonly arrived: Int32Array;
  readonly expected: number;
}

const POLL_MS = 50;

/**
 * @returns which build of the inner loops the thread uses.
 * @throws {CancelledError} when the others do not arrive before the task is cancelled.
 */
export function runWarmUpTask(task: WarmUpTask, wasm: Wasm, cancelled: Cancelled): WasmMode {
  const options = { attentionOutput: false };
  runJob(referenceJob(tinyProblem(), options), runReferenceTask);
  runJob(exactJob(tinyProblem(), options), (exact) => runExactTask(exact, wasm, cancelled));
  Atomics.add(task.arrived, 0, 1);
  Atomics.notify(task.arrived, 0);
  for (;;) {
    const arrived = Atomics.load(task.arrived, 0);
    if (arrived >= task.expected) return wasm.mode;
    if (cancelled()) throw new CancelledError();
    Atomics.wait(task.arrived, 0, arrived, POLL_MS);
  }
}

/** Four rows, one head of width four, rank one. */
function tinyProblem(): AttentionProblem {
  const tensor = (shape: readonly number[]): Tensor => ({
    dtype: 'float32',
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)).map((_, k) => Math.sin(k)),
  });
  const projection = (): Projection => ({
    weight: tensor([4, 4]),
    bias: null,
    adapter: { A: tensor([1, 4]), B: tensor([4, 1]), rank: 1, scaling: 1 },
    outFeatures: 4,
    inFeatures: 4,
  });
  const states = tensor([1, 4, 4]);
  return {
    dims: {
      batch: 1,
      queryLength: 4,
      keyLength: 4,
      heads: 1,
      keyValueHeads: 1,
      headDim: 4,
      valueDim: 4,
    },
    inputs: { query: states, key: states, value: states },
    projections: { q_proj: projection(), k_proj: projection(), v_proj: projection() },
    scaling: 0.5,
    causal: false,
    objective: { kind: 'grad_output', tensor: tensor([1, 4, 4]) },
  };
}
