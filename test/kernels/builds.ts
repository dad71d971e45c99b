/** Every build of the inner loops that runs here, each once. */
import { availableKernels, type Kernels } from '../../workers/kernels/inner/builds.js';
import type { Wasm } from '../../workers/kernels/inner/instance.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';

const all = availableKernels();

export const KERNELS: readonly Kernels[] = all.filter(
  ({ build }, k) => all.findIndex((other) => other.build === build) === k,
);

/** An instance of each, by name. */
export const loadEvery = (): Record<string, Wasm> =>
  Object.fromEntries(KERNELS.map((kernels) => [kernels.build, loadWasm(kernels)]));
