import type { GradientRequest } from 'loragrad-client';
import type { Settings } from './settings.js';

/** The data of the form, made in a worker that ends with it or with the signal. */
export function make(settings: Settings, signal: AbortSignal): Promise<GradientRequest> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./make.worker.ts', import.meta.url), { type: 'module' });
    const end = () => worker.terminate();
    signal.addEventListener('abort', () => {
      end();
      reject(signal.reason);
    });
    worker.onmessage = ({ data }) => {
      end();
      resolve(data as GradientRequest);
    };
    worker.onerror = ({ message }) => {
      end();
      reject(new Error(message || 'The data could not be made'));
    };
    worker.postMessage(settings);
  });
}
