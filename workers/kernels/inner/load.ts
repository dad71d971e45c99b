/** Which build of the inner loops a process uses: chosen once, so that all its threads compute the same. */
import { Random } from '../random.js';
import { availableKernels, type Kernels, loadKernels, portableKernels } from './builds.js';
import { drawCall, drawFrom, placeCall } from './call.js';
import type { Wasm } from './instance.js';
import { selfCheck } from './selfcheck.js';

export const KERNEL_CHOICES = ['auto', 'native', 'avx2', 'wasm'] as const;
export type KernelChoice = (typeof KERNEL_CHOICES)[number];

/** What is wrong with a build, beside the portable one; null: nothing. */
type Check = (wasm: Wasm, portable: Wasm) => string | null;

/**
 * `auto`: the fastest build that passes the self-check. `native` and `avx2` are that or nothing.
 *
 * @param differs looks at more than the operations.
 * @throws {Error} when the one that was asked for is not there or does not compute correctly.
 */
export function chooseKernels(choice: KernelChoice, differs: Check = () => null): Kernels {
  const portable = loadKernels(portableKernels());
  const complaints: string[] = [];
  const usable = availableKernels().filter(({ file }) => file !== null);
  const wanted = choice === 'avx2' ? usable.filter(({ build }) => build === 'avx2') : usable;
  const native = choice === 'wasm' ? [] : correct(wanted, portable, differs, complaints);
  if (choice === 'wasm') return portableKernels();
  if (choice !== 'auto') {
    if (native[0]) return native[0];
    const reason = complaints.join('; ') || 'none was built here or came with the package';
    throw new Error(`LORAGRAD_KERNELS=${choice}: no native kernels can be used (${reason})`);
  }
  return fastest([...native, portableKernels()]);
}

/** Of each build the first that computes what the portable one does. */
function correct(
  all: readonly Kernels[],
  portable: Wasm,
  differs: Check,
  complaints: string[],
): Kernels[] {
  const found: Kernels[] = [];
  for (const kernels of all) {
    if (found.some(({ build }) => build === kernels.build)) continue;
    const wasm = loadKernels(kernels);
    const wrong = selfCheck(wasm, portable) ?? differs(wasm, portable);
    if (wrong) complaints.push(`${kernels.build} of ${kernels.file}: ${wrong}`);
    else found.push(kernels);
  }
  return found;
}

/** A narrower build has to win by this much: what is as fast as another is chosen the same every time. */
const CLEARLY = 0.9;
const ROUNDS = 12;

function fastest(all: readonly Kernels[]): Kernels {
  if (all.length === 1) return all[0]!;
  const timed = all.map((kernels) => ({ kernels, run: trial(loadKernels(kernels)), ms: Infinity }));
  // In turns, so that a busy machine slows down all of them; the first rounds also compile.
  for (let round = 0; round < ROUNDS; round++) {
    for (const one of timed) {
      const start = performance.now();
      one.run();
      one.ms = Math.min(one.ms, performance.now() - start);
    }
  }
  return timed.reduce((best, one) => (one.ms < CLEARLY * best.ms ? one : best)).kernels;
}

const TRIAL_SEED = 1;
/** Calls of a product of a trial, about a tenth of a millisecond. */
const TRIAL_CALLS = 20;
const SIDE = 64;

/** Products of 64 by 64 by 64, of which everything is made. */
function trial(wasm: Wasm): () => void {
  const draw = drawFrom(new Random(TRIAL_SEED));
  const sizes = { m: SIDE, n: SIDE, k: SIDE, lda: SIDE, ldc: SIDE, accumulate: 0 };
  const { args } = placeCall(wasm, drawCall('gemm', draw, sizes));
  const product = wasm.fn.gemm as unknown as (...x: readonly number[]) => void;
  return () => {
    for (let k = 0; k < TRIAL_CALLS; k++) product(...args);
  };
}

let chosen: Kernels | null = null;

/** An instance of the build that is given, or of the fastest one. */
export function loadWasm(kernels?: Kernels): Wasm {
  chosen ??= kernels ? null : chooseKernels('auto');
  return loadKernels((kernels ?? chosen)!);
}
