/**
 * A thread that has had nothing to do for a while gives back what it keeps for its next work: else a process is as
 * large for ever as its busiest moment made it.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Task } from '../job.js';
import { forgetBlocks } from '../tensor/shared-memory.js';

export interface RestTask extends Task<void> {
  readonly kernel: 'rest';
}

type Collect = (options?: { readonly type: 'minor' }) => void;

let collect: Collect | null = null;

function collector(): Collect {
  if (!collect) {
    // Contexts that are made from now on have the function.
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as Collect;
  }
  return collect;
}

/** Blocks of memory, and whatever the garbage collector finds: it does not look by itself while nothing happens. */
export function giveBack(): void {
  forgetBlocks();
  collector()();
}

/**
 * Tensors lie outside of the heaps of the threads, and those are small: by itself the collector marks all of a heap whenever it, or the chunks
 * of bodies beside it, have grown by a few megabytes. That was a tenth of a sampled answer's time. Threads that rest give back what this leaves.
 */
export function letHeapsGrow(): void {
  // Marks where a heap has grown to three and a half times what was left of it.
  setFlagsFromString('--heap-growing-percent=250');
}

/** Code stays compiled through the collection of a rest, after which an answer took 0.3 s more. */
export function keepCode(): void {
  setFlagsFromString('--no-flush-bytecode');
}

/** Frees what was made and dropped since the last time, in about a millisecond. */
export function collectYoung(): void {
  collector()({ type: 'minor' });
}
