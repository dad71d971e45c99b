/**
 * Scratch of the tasks of the low-rank kernel, a stack in the memory of the inner loops.
 *
 * That memory must not grow while views of it are in use, so the whole budget is reserved once; the operating
 * system gives pages only when they are touched.
 */
import { type Checkpoint, NumericError } from '../../../job.js';
import type { Wasm } from '../../inner/instance.js';

/** Bytes of scratch that a task may use. */
export const SCRATCH_BYTES = 224 * 2 ** 20;

export class Scratch {
  readonly #end: number;

  /** @param checkpoint to be passed before all that takes a millisecond. */
  constructor(
    readonly wasm: Wasm,
    readonly checkpoint: Checkpoint,
  ) {
    const start = wasm.mark();
    wasm.alloc(SCRATCH_BYTES);
    this.#end = wasm.mark();
    wasm.release(start);
  }

  /** Zeroed scratch of n elements, valid until an earlier mark is released. */
  array(n: number): Float32Array {
    this.checkpoint();
    return this.wasm.f32(this.#allocate(4 * n), n).fill(0);
  }

  /** Zeroed float64 scratch: sums of blocks are kept in it. */
  sums(n: number): Float64Array {
    this.checkpoint();
    return this.wasm.f64(this.#allocate(8 * n), n).fill(0);
  }

  indices(list: Int32Array): Int32Array {
    const copy = this.wasm.i32(this.#allocate(4 * list.length), list.length);
    copy.set(list);
    return copy;
  }

  mark(): number {
    return this.wasm.mark();
  }

  release(mark: number): void {
    this.wasm.release(mark);
  }

  #allocate(bytes: number): number {
    const address = this.wasm.alloc(bytes);
    if (this.wasm.mark() > this.#end) {
      throw new NumericError(`Its sums need more than ${SCRATCH_BYTES} bytes of a thread.`);
    }
    return address;
  }
}
