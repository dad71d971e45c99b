/** Gradients of the inputs: dX += dQ W_Q of every head, with W the weights including the adapter; K, V alike. */

import type { Task } from '../../../job.js';
import { type AttentionKind, type AttentionProblem, STATES } from '../../../problem.js';
import type { TensorData } from '../../../tensor/tensor.js';
import type { InputGradients } from '../../result.js';
import type { Arithmetic } from '../arithmetic/arithmetic.js';
import { transposed } from '../head/affine.js';
import { BLOCK } from '../head/block.js';
import type { Segment } from '../head/layout.js';
import type { Role } from './full.js';
import type { HeadRun } from './run.js';

interface InputRequest {
  /** Heads of one batch item. */
  readonly runs: readonly HeadRun[];
  /** Which of its projections are applied to this tensor: all three in self-attention. */
  readonly roles: readonly Role[];
  readonly segment: Segment;
  /** dX of the batch item (length, inputs), added to. */
  readonly to: TensorData;
}

export interface InputsTask extends Task<void> {
  readonly kernel: 'low_rank';
  readonly step: 'inputs';
  readonly request: InputRequest;
}

export function addInputGradients(
  arithmetic: Arithmetic,
  { runs, roles, segment, to }: InputRequest,
): void {
  for (const { head, inputs: memory } of runs) {
    for (const role of roles) {
      const mark = arithmetic.mark();
      const { weight, inputs, outputs } = head[role].effective;
      const rows = memory![role];
      const length = role === 'query' ? head.queryLength : head.keyLength;
      const back = arithmetic.pack(outputs, inputs, transposed(weight, inputs, outputs));
      const gradient = arithmetic.array(BLOCK * outputs);
      const sum = arithmetic.array(BLOCK * inputs);
      const scale = role === 'value' ? 1 : head.beta;
      // Padded keys have no gradient.
      const end = Math.min(segment.to, length);
      for (let start = segment.from; start < end; start += BLOCK) {
        const n = Math.min(BLOCK, end - start);
        gradient.set(rows.subarray(start * outputs, (start + n) * outputs));
        arithmetic.combine(n * outputs, scale, gradient, 0, gradient);
        sum.set(to.subarray(start * inputs, (start + n) * inputs));
        arithmetic.product(n, gradient, back, sum, true);
        to.set(sum.subarray(0, n * inputs), start * inputs);
      }
      arithmetic.release(mark);
    }
  }
}

/** Rows of a task. */
const INPUT_ROWS = 2048;

/** Every task has rows of its own of one of the tensors; heads are added in their order. */
export function inputTasks(
  { dims, inputs }: AttentionProblem,
  runs: readonly HeadRun[],
  kind: AttentionKind,
  gradients: InputGradients,
): InputsTask[] {
  const roles = ['query', 'key', 'value'] as const;
  const items = [...new Set(runs.map(({ head }) => head.batch))];
  return items.flatMap((b) =>
    [...new Set(roles.map((role) => STATES[kind][role]))].flatMap((name) => {
      const data = gradients[name]!;
      const to = data.subarray(
        (b * data.length) / dims.batch,
        ((b + 1) * data.length) / dims.batch,
      );
      const mine = roles.filter((role) => STATES[kind][role] === name);
      const length = inputs[mine[0]].shape[1];
      return Array.from({ length: Math.ceil(length / INPUT_ROWS) }, (_, s) => ({
        ...{ kernel: 'low_rank', step: 'inputs' },
        request: {
          runs: runs.filter(({ head }) => head.batch === b),
          roles: mine,
          segment: { from: s * INPUT_ROWS, to: Math.min(length, (s + 1) * INPUT_ROWS) },
          to,
        },
      }));
    }),
  );
}
