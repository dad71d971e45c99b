/** Which build of the inner loops a process uses: chosen once, so that all its threads compute the same. */
import { availableKernels, type Kernels, loadKernels, portableKernels } from './builds.js';
import type { Wasm } from './instance.js';
import { selfCheck } from './selfcheck.js';

export const KERNEL_CHOICES = ['auto', 'native', 'avx2', 'wasm'] as const;
export type KernelChoice = (typeof KERNEL_CHOICES)[number];

/** What is wrong with a build, beside the portable one; null: nothing. */
type Check = (wasm: Wasm, portable: Wasm) => string | null;

/**
 * The widest build that passes the self-check, and the first of those. What is in use never hangs on how busy the machine
 * is: other bits than those of its neighbours would keep a machine from all parts of a queue. `native` and `avx2` are native or nothing.
 *
 * @param differs looks at more than the operations.
 * @throws {Error} when the one that was asked for is not there or does not compute correctly.
 */
export function chooseKernels(choice: KernelChoice, differs: Check = () => null): Kernels {
  if (choice === 'wasm') return portableKernels();
  const portable = loadKernels(portableKernels());
  const complaints: string[] = [];
  for (const kernels of availableKernels()) {
    const { build, file } = kernels;
    if (file === null || (choice === 'avx2' && build !== 'avx2')) continue;
    const wasm = loadKernels(kernels);
    const wrong = selfCheck(wasm, portable) ?? differs(wasm, portable);
    if (!wrong) return kernels;
    complaints.push(`${build} of ${file}: ${wrong}`);
  }
  if (choice === 'auto') return portableKernels();
  const reason = complaints.join('; ') || 'none was built here or came with the package';
  throw new Error(`LORAGRAD_KERNELS=${choice}: no native kernels can be used (${reason})`);
}

let chosen: Kernels | null = null;

/** An instance of the build that is given, or of the one that `auto` stands for. */
export function loadWasm(kernels?: Kernels): Wasm {
  chosen ??= kernels ? null : chooseKernels('auto');
  return loadKernels((kernels ?? chosen)!);
}
