/** A worker thread of the benchmark: runs tasks of the exact kernel as they come. */
import { parentPort, workerData } from 'node:worker_threads';
import { type ExactTask, runExactTask } from '../workers/kernels/exact/gradient.js';
import { type LoadOptions, loadWasm } from '../workers/kernels/wasm/load.js';

const wasm = loadWasm(workerData as LoadOptions);

parentPort!.on('message', (task: ExactTask) => {
  parentPort!.postMessage(runExactTask(task, wasm, () => false));
});
parentPort!.postMessage(wasm.mode);
