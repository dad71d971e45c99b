/**
 * Does a build compute what the portable one does? Every operation is called on both with the same random
 * operands of several sizes. The results may differ by rounding, and nothing else may be written.
 */
import { Random } from '../random.js';
import { difference, drawCall, drawFrom, runCall } from './call.js';
import type { Wasm } from './instance.js';
import { OPERATIONS, type OperationName } from './operations/operations.js';

const SEED = 20261126;
const ROUNDS = 3;
const ALL = Object.keys(OPERATIONS) as OperationName[];

/** @returns what is wrong; null: nothing. */
export function selfCheck(wasm: Wasm, portable: Wasm, names = ALL): string | null {
  const draw = drawFrom(new Random(SEED));
  for (const name of names) {
    for (let round = 0; round < ROUNDS; round++) {
      const call = drawCall(name, draw);
      const wrong = difference(call, runCall(wasm, call), (other) => runCall(portable, other));
      if (wrong) return wrong;
    }
  }
  wasm.reset();
  portable.reset();
  return null;
}
