/** The layout of a row block in memory: the same fields in the same order as `Block` in assembly/attention.ts. */

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

/**
 * A block of query rows and the keys that it meets: what the passes over tiles take.
 *
 * The keys are cut into tiles of KEYS; a tile is stored (KEYS, ROWS), keys outermost. Whatever has an
 * entry for each key (k, v, bias, from, to, e, t, slope, us, uv, ls, lv) begins with that of the first key of
 * tile `origin`, so that a caller may hold some of the keys only; in the passes' ranges [t0, t1) and in `keys` tiles and
 * keys are counted from 0 all the same. Everything is float32, row-major, at addresses in bytes aligned
 * to 16, where nothing else is said; address 0: absent.
 *
 * Passes, in this order, each over all tiles that a row sees:
 *
 *     scores     S = cap(beta log2(e) q k^T) + bias, minus infinity where masked; raises max. If bounded is 0
 *     weights    E = 2^(S - max), or S and 2^S if bounded; adds to sum, o; with g does what `values` does
 *     values     t = G v^T; adds to dot
 *     gradients  t = dS = E (t - mean) slope; adds to rs, ls (dS) and rv, lv (E)
 *
 * A pair that is masked has E = 0 and dS = 0. Keys drawn from a longer list are gathered first
 * (`gather_rows`), and their left products scattered back (`scatter_rows`).
 */
export interface Block {
  /** Rows in use, rounded up to 16. */
  readonly rows: number;
  /** Position of the first row in its sequence, for `from` and `to`. */
  readonly firstRow: number;
  /** Number of keys from key 0 on. Keys of the last tile, rounded up to 8, must exist and be finite. */
  readonly keys: number;
  /**
   * 1: no |S| is above LARGEST_EXPONENT, E = 2^S, and `max` is not read. 2: max is known, E = 2^(S - max).
   * Both: `weights` makes S itself, `scores` is not called. 0: after `scores`.
   */
  readonly bounded: number;
  /** The tile with which everything begins that has an entry for each key. */
  readonly origin: number;
  /** Widths of a query or key head and of a value head. */
  readonly d: number;
  readonly dv: number;
  /** beta log2(e) Q and G of the block in panels of 16 rows, as `pack_transposed` makes them. g 0: later. */
  readonly q: number;
  readonly g: number;
  /** K (keys, d), V (keys, dv). */
  readonly k: number;
  readonly v: number;
  /** Per key: log2(e) times a number that is added to its logits, after the cap. 0: none. */
  readonly bias: number;
  /** Per key (int32): rows [from, to) see it, as positions in the sequence. 0: from the first, to the last. */
  readonly from: number;
  readonly to: number;
  /** log2(e) c of the soft cap S = c tanh(S / c), one number. 0: none. */
  readonly cap: number;
  /** Tiles: S, then E; G V^T, then dS; with a cap, its slope 1 - tanh(S / c)^2, else 0. */
  readonly e: number;
  readonly t: number;
  readonly slope: number;
  /** Per row: maximum of S (may begin above it), sum of E (float64), sum of E G V^T (float64), G.O. */
  readonly max: number;
  readonly sum: number;
  readonly dot: number;
  readonly mean: number;
  /** E^T V transposed (dv, ROWS), added to; 0: not wanted. */
  readonly o: number;
  /** Widths, multiples of 8, of the factors that meet dS and E; 0: none. */
  readonly ps: number;
  readonly pv: number;
  /** Right factors (keys, width) and left factors (ROWS, width). us, uv 0: no right products. */
  readonly us: number;
  readonly uv: number;
  readonly ws: number;
  readonly wv: number;
  /** Right products (ROWS, width) and left products (keys, width), added to. ls, lv 0: none. */
  readonly rs: number;
  readonly rv: number;
  readonly ls: number;
  readonly lv: number;
}

/** Numbers, and addresses of arrays. */
// biome-ignore format: one line a group
export const FIELDS = {
  rows: 'size', firstRow: 'size', keys: 'size', bounded: 'size', origin: 'size', d: 'size', dv: 'size',
  q: 'f32', g: 'f32', k: 'f32', v: 'f32', bias: 'f32', from: 'i32', to: 'i32', cap: 'f32',
  e: 'f32', t: 'f32', slope: 'f32', max: 'f32', sum: 'f64', dot: 'f64', mean: 'f32', o: 'f32',
  ps: 'size', pv: 'size', us: 'f32', uv: 'f32', ws: 'f32', wv: 'f32', rs: 'f32', rv: 'f32', ls: 'f32', lv: 'f32',
} as const satisfies Record<keyof Block, 'size' | 'f32' | 'f64' | 'i32'>;

const NAMES = Object.keys(FIELDS) as (keyof Block)[];

export const BLOCK_BYTES = 4 * NAMES.length;

/** Which of the integers a field is. */
export const FIELD_AT = Object.fromEntries(NAMES.map((name, i) => [name, i])) as Readonly<Block>;

export function writeBlock(
  memory: { i32(at: number, n: number): Int32Array },
  at: number,
  block: Block,
): void {
  const words = memory.i32(at, NAMES.length);
  for (const [i, name] of NAMES.entries()) words[i] = block[name];
}
