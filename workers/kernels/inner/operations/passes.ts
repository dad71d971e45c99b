/** The passes over the tiles [t0, t1) of a row block, described in assembly/attention.ts. */
import { FIELDS, KEYS, ROWS, TILE_FLOATS } from '../block.js';
import {
  type ArrayArgument,
  type Draw,
  operation,
  type Sizes,
  type StructArgument,
  size,
  update,
} from './operation.js';

const roundUp = (n: number, to: number) => Math.ceil(n / to) * to;
const keysHere = ({ keys, origin }: Sizes) => roundUp(keys!, 8) - origin! * KEYS;
const tiles = (s: Sizes) => Math.ceil(keysHere(s) / KEYS) * TILE_FLOATS;

type Length = ArrayArgument['length'];
type Value = NonNullable<ArrayArgument['value']>;

/** An array with a row for each key; rows of padding are zeros. `has`: a size that is 0 where the array is absent. */
const ofKeys = (width: string, has?: string): [Length, Value] => [
  (s) => (has && !s[has] ? 0 : keysHere(s) * s[width]!),
  (draw, s, i) => (Math.floor(i / s[width]!) + s.origin! * KEYS < s.keys! ? unit(draw) : 0),
];
const ofRows = (width: string): [Length] => [(s) => ROWS * s[width]!];
/** Position of a row that sees a key: within this block, or up to 70 rows before or after it. */
const position =
  (least: number): Value =>
  (draw, { firstRow, rows }) =>
    firstRow! + draw.integer(least, least + rows! + 70);
const unit = (draw: Draw) => draw.uniform(-1, 1);
/** Small enough that float32 gives powers of two of their products to all their digits. */
const small: Value = (draw) => draw.uniform(-0.3, 0.3);

const ARRAYS: Readonly<Record<string, readonly [Length, Value?]>> = {
  q: [({ d, rows }) => d! * rows!, small],
  g: [({ dv, rows, withG }) => (withG ? dv! * rows! : 0)],
  k: ofKeys('d'),
  v: ofKeys('dv'),
  e: [tiles, (draw, { bounded }) => draw.uniform(bounded ? -1 : -20, 1)],
  t: [(s) => (s.ps ? tiles(s) : 0)],
  bias: ofKeys('one', 'withBias'),
  from: [(s) => (s.withFrom ? s.keys! - s.origin! * KEYS : 0), position(-70)],
  to: [(s) => (s.withTo ? s.keys! - s.origin! * KEYS : 0), position(0)],
  cap: [({ withCap }) => withCap!, () => 3],
  slope: [(s) => (s.withCap ? tiles(s) : 0)],
  max: [() => ROWS, (draw) => (draw.integer(0, 3) ? draw.uniform(1, 5) : 20)],
  sum: [() => ROWS],
  dot: [() => ROWS],
  mean: [() => ROWS],
  o: [({ dv, withO }) => (withO ? dv! * ROWS : 0)],
  us: ofKeys('ps', 'withUs'),
  uv: ofKeys('pv', 'withUv'),
  ws: ofRows('ps'),
  wv: ofRows('pv'),
  rs: ofRows('ps'),
  rv: ofRows('pv'),
  ls: [(s) => (s.withLs ? keysHere(s) * s.ps! : 0)],
  lv: [(s) => (s.withLv ? keysHere(s) * s.pv! : 0)],
};

const block: StructArgument = {
  kind: 'struct',
  name: 'block',
  words: 'i32',
  fields: Object.entries(FIELDS).map(([name, type]) =>
    type === 'size' ? size(name) : update(type, name, ...ARRAYS[name]!),
  ),
};

/** Sizes of a trial: all that a block may be, tiles that are whole and the last one. */
function sizes(draw: Draw, given: Sizes = {}): Sizes {
  const origin = draw.integer(0, 1);
  const keys = origin * KEYS + draw.integer(1, 3 * KEYS);
  const last = Math.ceil(roundUp(keys, 8) / KEYS);
  const t0 = draw.integer(origin, last - 1);
  const flags = ['bounded', 'withO', 'withUs', 'withUv', 'withLs', 'withLv', 'withFrom', 'withTo'];
  // Seldom, as in practice: without them tiles are finished in registers.
  const seldom = ['withBias', 'withCap'];
  return {
    ...Object.fromEntries(flags.map((name) => [name, Number(draw.flag())])),
    ...Object.fromEntries(seldom.map((name) => [name, Number(draw.integer(0, 3) === 0)])),
    one: 1,
    ...{ rows: 16 * draw.integer(1, ROWS / 16), firstRow: draw.integer(0, 200), keys, origin },
    ...{ d: draw.integer(1, 70), dv: draw.integer(1, 70), withG: 1 },
    ...{ ps: 8 * draw.integer(1, 9), pv: 8 * draw.integer(0, 9) },
    ...{ t0, t1: draw.integer(t0 + 1, last) },
    ...given,
  };
}

const pass = (given: (draw: Draw) => Sizes = () => ({})) =>
  operation([block, size('t0'), size('t1')], (draw) => sizes(draw, given(draw)), { single: true });

export const PASSES = {
  /** S of the tiles, minus infinity where a row does not see a key; raises `max` */
  scores: pass(),
  /** E = 2^(S - max), or S and 2^S where it is bounded, and its row sums; with `o`, O += E V; with `g`, as `values` */
  weights: pass((draw) => {
    const withG = Number(draw.flag());
    // Without G there is no dP either.
    return withG ? { withG } : { withG, ps: 0, withUs: 0, withLs: 0 };
  }),
  /** dP = G V^T, and the row sums of E dP */
  values: pass(),
  /** dS = E (dP - G.O), times the slope of the cap, then all thin products: dS us, dS^T ws, E uv, E^T wv */
  gradients: pass((draw) => (draw.flag() ? { ps: 0, withUs: 0, withLs: 0 } : {})),
};
