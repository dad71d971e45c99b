/** The compiled inner loops of this thread: the build that the process has chosen. */
import { workerData } from 'node:worker_threads';
import { type Kernels, loadKernels } from './kernels/inner/builds.js';

export let wasm = loadKernels(workerData as Kernels);

/** A memory that has grown does not shrink: one beyond this size is not kept, bytes. */
const LARGE = 2 ** 24;

/** Gives back the memory of the inner loops, if it is large. */
export function renewWasm(): void {
  if (wasm.buffer.byteLength > LARGE) wasm = loadKernels(workerData as Kernels);
}
