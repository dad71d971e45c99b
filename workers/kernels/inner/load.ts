/**
 * Loads the compiled inner loops, in the fastest build that this machine runs correctly.
 *
 *   plain    128-bit SIMD, runs wherever WebAssembly SIMD does
 *   relaxed  the same with fused multiply-add
 */
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { Wasm, type WasmExports, type WasmMode } from './instance.js';

export interface LoadOptions {
  /** Take this build and no better one; for tests and measurements. */
  readonly build?: 'plain' | 'relaxed';
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

/** An instance with a memory of its own. One per thread: instances share nothing. */
export function loadWasm(options: LoadOptions = {}): Wasm {
  return instantiate(options.build === 'plain' || !relaxedSimd() ? 'plain' : 'relaxed');
}

function instantiate(build: WasmMode): Wasm {
  const module = new WebAssembly.Module(readFileSync(new URL(`${build}.wasm`, import.meta.url)));
  return new Wasm(new WebAssembly.Instance(module).exports as unknown as WasmExports, build);
}
