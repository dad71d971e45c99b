/** The compiled inner loops of this thread. */
import { workerData } from 'piscina';
import { type LoadOptions, loadWasm } from './kernels/inner/load.js';

export const wasm = loadWasm(workerData as LoadOptions);
