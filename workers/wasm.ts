/** The compiled inner loops of this thread: the build that the process has chosen. */
import { workerData } from 'piscina';
import { type Kernels, loadKernels } from './kernels/inner/builds.js';

export const wasm = loadKernels(workerData as Kernels);
