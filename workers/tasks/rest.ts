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

/** Frees what was made and dropped since the last time, in about a millisecond. */
export function collectYoung(): void {
  collector()({ type: 'minor' });
}
