/**
 * Do the whole stages of a build compute what the passes of the portable one do? Operations are checked one by one
 * (selfcheck.ts); stages by two small problems, with one call and with many.
 */
import { runJob } from '../job.js';
import { exactStages } from '../kernels/exact/gradient.js';
import { runExactTask } from '../kernels/exact/run.js';
import type { Wasm } from '../kernels/inner/instance.js';
import { CAUSAL } from '../mask.js';
import type { AttentionProblem } from '../problem.js';
import { sampleProblem } from './sample-problem.js';

/** Several row blocks, several tiles of keys, and neither is full at the end. */
const LENGTH = 150;
const WIDTH = 24;
const RANK = 4;
/** Relative to the largest number of a gradient: rounding is a hundredth of it. */
const LIMIT = 1e-4;

/** @returns what is wrong; null: nothing. */
export function stagesDiffer(wasm: Wasm, portable: Wasm): string | null {
  if (!wasm.fn.attend) return null;
  const plain = sampleProblem(LENGTH, WIDTH, RANK);
  const { tensor } = plain.objective;
  const masked = { ...plain, mask: CAUSAL, objective: { kind: 'target', tensor } as const };
  for (const problem of [plain, masked]) {
    const [mine, right] = [wasm, portable].map((one) => gradientsOf(problem, one));
    for (const [name, expected] of Object.entries(right!)) {
      const off = expected.reduce((m, x, k) => Math.max(m, Math.abs(x - mine![name]![k]!)), 0);
      const largest = expected.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
      if (!(off <= LIMIT * largest)) return `attend: ${name} is off by ${off}, of ${largest}`;
    }
  }
  return null;
}

function gradientsOf(problem: AttentionProblem, wasm: Wasm): Record<string, Float64Array> {
  const { gradients } = runJob(exactStages(problem, { attentionOutput: false }), (task) =>
    runExactTask(task, wasm, () => false),
  );
  return Object.fromEntries(
    Object.entries(gradients).flatMap(([name, { lora_A, lora_B }]) => [
      [`${name}.lora_A`, lora_A],
      [`${name}.lora_B`, lora_B],
    ]),
  );
}
