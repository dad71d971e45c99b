/** The compiled inner loops of this thread. */
import { loadWasm } from './kernels/inner/load.js';

export const wasm = loadWasm();
