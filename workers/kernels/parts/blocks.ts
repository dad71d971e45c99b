/** Blocks of matrices on their way into the parts of a problem and out of their results. */
import { type Cancelled, checkpoint, type Task } from '../../job.js';
import type { TensorData } from '../../tensor/tensor.js';

/** A block of a row-major matrix: it begins at element `at`, its rows are `pitch` apart. */
export interface Block {
  readonly data: TensorData;
  readonly at: number;
  readonly pitch: number;
}

/** to += from, for (rows, columns). */
export interface Addition {
  readonly to: Block;
  readonly from: Block;
  readonly rows: number;
  readonly columns: number;
  /** to = from: what is there is nobody's. */
  readonly copies?: true;
}

/** Additions in their order: no two tasks write to the same place. */
export interface BlocksTask extends Task<null> {
  readonly kernel: 'parts';
  readonly step: 'blocks';
  readonly additions: readonly Addition[];
}

/** Elements between two looks at the flag that cancels: less than a millisecond. */
const AT_ONCE = 2 ** 18;

export function runBlocks({ additions }: BlocksTask, cancelled: Cancelled): null {
  let elements = 0;
  for (const { to, from, rows, columns, copies } of additions) {
    const { data: y } = to;
    const { data: x } = from;
    for (let i = 0; i < rows; i++) {
      const start = to.at + i * to.pitch;
      const over = from.at + i * from.pitch;
      if (copies) y.set(x.subarray(over, over + columns), start);
      else for (let k = 0; k < columns; k++) y[start + k]! += x[over + k]!;
      elements += columns;
      if (elements < AT_ONCE) continue;
      elements = 0;
      checkpoint(cancelled);
    }
  }
  return null;
}

export const blocksTask = (additions: readonly Addition[]): BlocksTask => ({
  kernel: 'parts',
  step: 'blocks',
  additions,
});
