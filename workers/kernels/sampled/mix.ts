/** Two independent answers to a problem become one: a weighted mean, number by number. */
import { type Job, stage, type Task } from '../../job.js';
import type { TensorData } from '../../tensor/tensor.js';
import { type GradientResult, tensorsOf } from '../result.js';

export interface MixTask extends Task<number> {
  readonly kernel: 'sampled';
  readonly step: 'mix';
  readonly to: TensorData;
  readonly from: TensorData;
  readonly share: number;
}

/** About a millisecond of work. */
const TASK_NUMBERS = 2 ** 20;

/**
 * to = (1 - share) to + share from, which leaves as they are numbers that both have in common.
 *
 * @returns the sum of the squares.
 */
export function runMix({ to, from, share }: MixTask, checkpoint: () => void): number {
  checkpoint();
  let squares = 0;
  for (let k = 0; k < to.length; k++) {
    to[k]! += share * (from[k]! - to[k]!);
    squares += to[k]! * to[k]!;
  }
  return squares;
}

type Outputs = Pick<GradientResult, 'gradients' | 'sinks' | 'inputGradients' | 'attentionOutput'>;

const tensorsOfAll = (result: Outputs): Map<string, TensorData> =>
  new Map<string, TensorData>([
    ...tensorsOf(result),
    ...Object.entries(result.inputGradients ?? {}),
    ...(result.attentionOutput ? [['attention_output', result.attentionOutput] as const] : []),
  ]);

/** All tensors of an answer, in place. @returns the squares of their norms, by name. */
export function* mixed(
  to: Outputs,
  from: Outputs,
  share: number,
): Job<Readonly<Record<string, number>>, MixTask> {
  const others = tensorsOfAll(from);
  const tasks = Array.from(tensorsOfAll(to), ([name, data]) => {
    const parts = Math.ceil(data.length / TASK_NUMBERS);
    return Array.from({ length: parts }, (_, part) => {
      const cut = (x: TensorData) => x.subarray(part * TASK_NUMBERS, (part + 1) * TASK_NUMBERS);
      const [own, other] = [cut(data), cut(others.get(name)!)];
      return {
        name,
        task: { kernel: 'sampled', step: 'mix', to: own, from: other, share } as const,
      };
    });
  }).flat();
  const found = yield* stage<MixTask>(
    'join',
    tasks.map(({ task }) => task),
  );
  const squares: Record<string, number> = {};
  tasks.forEach(({ name }, k) => {
    squares[name] = (squares[name] ?? 0) + found[k]!;
  });
  return squares;
}
