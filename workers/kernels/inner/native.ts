/**
 * The operations compiled from native/src for the instruction sets of this processor: a Node-API addon that was
 * built on this machine (npm run build), or came with the package.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { packageFile } from '../../package-file.js';
import { type KernelBuild, Wasm } from './instance.js';
import type { Operations } from './operations/operations.js';
import type { Stages } from './operations/stages.js';

export type NativeBuild = Exclude<KernelBuild, `wasm-${string}`>;

interface Addon {
  /** Builds in it that this processor can run, the widest first. */
  readonly builds: readonly NativeBuild[];
  /** The operations on a memory that begins at the address of this buffer. */
  bind(
    build: NativeBuild,
    memory: ArrayBuffer,
  ): Operations & Stages & { attach(memory: ArrayBuffer): void };
  /** What operations take as the address of an array anywhere. */
  address(x: ArrayBufferView): number;
  /** Multiply-adds of the widest build, on registers; how many floating-point operations they were. */
  peak(rounds: number): number;
}

export interface NativeFile {
  readonly path: string;
  readonly builds: readonly NativeBuild[];
}

const require = createRequire(import.meta.url);
const addon = (path: string) => require(path) as Addon;

/** The C library belongs to the name of a prebuilt addon: that of Alpine is another. */
function platform(): string {
  if (process.platform !== 'linux') return `${process.platform}-${process.arch}`;
  const { header } = process.report.getReport() as unknown as { header: object };
  return `${'glibcVersionRuntime' in header ? 'linux' : 'linuxmusl'}-${process.arch}`;
}

/** Addons that can be loaded here: the one built on this machine, then the one that came with the package. */
export function nativeFiles(): NativeFile[] {
  const built = packageFile('dist/native/kernels.node');
  const prebuilt = packageFile(`native/prebuilt/${platform()}.node`);
  return [built, prebuilt].flatMap((url) => {
    const path = fileURLToPath(url);
    if (!existsSync(path)) return [];
    try {
      return [{ path, builds: addon(path).builds }];
    } catch {
      // Made for another system: then the next one, or WebAssembly.
      return [];
    }
  });
}

/** The operations of a native build on the memory of a WebAssembly instance. */
export function bindNative(path: string, build: NativeBuild, memory: WebAssembly.Memory): Wasm {
  const { bind, address } = addon(path);
  const { attach, ...operations } = bind(build, memory.buffer);
  // Each function keeps the memory that it works on alive.
  for (const operation of Object.values(operations)) Object.assign(operation, { memory });
  return new Wasm({ ...operations, memory }, build, () => attach(memory.buffer), address);
}

const PEAK_ROUNDS = 200_000;
const PEAK_TRIALS = 20;

/** Flops per second of a core that does nothing but fused multiply-adds; null without native kernels. */
export function peakRate(): number | null {
  const [file] = nativeFiles().filter(({ builds }) => builds.length > 0);
  if (!file) return null;
  const rates = Array.from({ length: PEAK_TRIALS }, () => {
    const start = performance.now();
    const flops = addon(file.path).peak(PEAK_ROUNDS);
    return (1000 * flops) / (performance.now() - start);
  });
  return Math.max(...rates);
}
