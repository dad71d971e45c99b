/**
 * The builds of the inner loops.
 *
 *   avx512, avx2, neon   native/src, where a C compiler or a prebuilt addon made them
 *   wasm-relaxed         assembly/: 128-bit SIMD with fused multiply-add, where this Node has it
 *   wasm-plain           the same without, runs wherever WebAssembly SIMD does
 */
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { packageFile } from '../../package-file.js';
import { type KernelBuild, Wasm, type WasmExports } from './instance.js';
import { bindNative, type NativeBuild, type NativeFile, nativeFiles } from './native.js';

/** A build, and the addon that it is in. */
export interface Kernels {
  readonly build: KernelBuild;
  readonly file: string | null;
}

/** (func (param v128 v128 v128) (result v128) f32x4.relaxed_madd): valid where the feature is on. */
const RELAXED_MADD = Uint8Array.of(
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
  ...[0x01, 0x08, 0x01, 0x60, 0x03, 0x7b, 0x7b, 0x7b, 0x01, 0x7b],
  ...[0x03, 0x02, 0x01, 0x00],
  ...[0x0a, 0x0d, 0x01, 0x0b, 0x00, 0x20, 0x00, 0x20, 0x01, 0x20, 0x02, 0xfd, 0x85, 0x02, 0x0b],
);

const nodeMajor = Number(process.versions.node.split('.')[0]);

/** Node 20 knows relaxed SIMD behind a flag, which V8 reads whenever a module is compiled. */
export function relaxedSimd(): boolean {
  if (!WebAssembly.validate(RELAXED_MADD) && nodeMajor < 22) {
    setFlagsFromString('--experimental-wasm-relaxed-simd');
  }
  return WebAssembly.validate(RELAXED_MADD);
}

/** The build of WebAssembly that this Node runs best. */
export function portableKernels(): Kernels {
  return { build: relaxedSimd() ? 'wasm-relaxed' : 'wasm-plain', file: null };
}

const WIDEST_FIRST: readonly KernelBuild[] = ['avx512', 'avx2', 'neon'];

/** Every build that can run here, the widest first; of the same build that which was built here comes first. */
export function availableKernels(): Kernels[] {
  const native = nativeFiles()
    .flatMap(({ path, builds }: NativeFile) => builds.map((build) => ({ build, file: path })))
    .sort((a, b) => WIDEST_FIRST.indexOf(a.build) - WIDEST_FIRST.indexOf(b.build));
  const wasm: Kernels[] = relaxedSimd() ? [portableKernels()] : [];
  return [...native, ...wasm, { build: 'wasm-plain', file: null }];
}

/** An instance with a memory of its own. One per thread: instances share nothing. */
export function loadKernels({ build, file }: Kernels): Wasm {
  if (file === null) return new Wasm(instantiate(build), build);
  const { memory } = instantiate(portableKernels().build);
  return bindNative(file, build as NativeBuild, memory);
}

function instantiate(build: KernelBuild): WasmExports {
  const name = build === 'wasm-plain' ? 'plain' : 'relaxed';
  const file = packageFile(`dist/workers/kernels/inner/${name}.wasm`);
  const module = new WebAssembly.Module(readFileSync(file));
  return new WebAssembly.Instance(module).exports as unknown as WasmExports;
}
