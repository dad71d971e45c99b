/** The JavaScript side of `Block` in assembly/attention.ts: the same fields in the same order. */
import type { Wasm } from './instance.js';

/** Query rows of a block, and keys of a tile. */
export const ROWS = 64;
export const KEYS = 48;
export const TILE_FLOATS = ROWS * KEYS;

/**
 * Weights 2^S are taken without a row maximum up to this |S|: rows of a million keys then have sums below
 * 2^70, and an upstream gradient may be as small as 1e-15 before its products with 1 / sum leave the
 * normal numbers of float32.
 */
export const LARGEST_EXPONENT = 50;

// biome-ignore format: one line a group
const FIELDS = [
  'rows', 'firstRow', 'keys', 'causal', 'bounded', 'origin', 'd', 'dv', 'q', 'g', 'k', 'v', 'e',
  't', 'max', 'sum', 'dot', 'mean', 'o', 'ps', 'pv', 'us', 'uv', 'ws', 'wv', 'rs', 'rv', 'ls', 'lv',
] as const;

export type Block = Record<(typeof FIELDS)[number], number>;

export const BLOCK_BYTES = 4 * FIELDS.length;

/** Which of the integers a field is. */
export const FIELD_AT = Object.fromEntries(FIELDS.map((name, i) => [name, i])) as Readonly<Block>;

export function writeBlock(wasm: Wasm, at: number, block: Block): void {
  const words = wasm.i32(at, FIELDS.length);
  for (let i = 0; i < FIELDS.length; i++) words[i] = block[FIELDS[i]!];
}
