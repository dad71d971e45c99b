/**
 * Whole stages of the exact kernel as operations of native/src: they work on the arrays that all threads share, where
 * they lie. WebAssembly has none of them: there the same stages are loops over the passes and products.
 */
import { KEYS, ROWS, TILE_FLOATS } from '../block.js';
import {
  type Callable,
  type Draw,
  f64,
  operation,
  read,
  type Sizes,
  type StructArgument,
  scratch,
  size,
  update,
} from './operation.js';

const roundUp = (n: number, to: number) => Math.ceil(n / to) * to;
const padded = ({ keys }: Sizes) => roundUp(keys!, 8);
/** Tiles of the keys that are in memory at once. */
const tiles = ({ keys, window }: Sizes) =>
  Math.ceil(roundUp(Math.min(keys!, window!), 8) / KEYS) * TILE_FLOATS;
/** Rows of the sequence; those that are taken are all of them, or some that are picked. */
const ofSequence =
  (width: (s: Sizes) => number) =>
  (s: Sizes): number =>
    s.sequence! * width(s);
const pitched = (s: Sizes) => (s.sequence! - 1) * s.pitch! + s.dv!;

const when =
  (has: string, length: (s: Sizes) => number) =>
  (s: Sizes): number =>
    s[has] ? length(s) : 0;
const unless = (has: string, length: (s: Sizes) => number) => (s: Sizes) =>
  s[has] ? 0 : length(s);
/** What the padding of the keys holds is zeros. */
const ofKeys = (width: (s: Sizes) => number) =>
  [
    (s: Sizes) => padded(s) * width(s),
    (draw: Draw, s: Sizes, i: number) =>
      Math.floor(i / width(s)) < s.keys! ? draw.uniform(-1, 1) : 0,
  ] as const;
const ofRows = (width: (s: Sizes) => number) => (s: Sizes) => ROWS * width(s);
const of = (name: string) => (s: Sizes) => s[name]!;
const small = (draw: Draw) => draw.uniform(-0.3, 0.3);
/** Panels of 16 columns. */
const panels = (rows: string, columns: string) => (s: Sizes) =>
  16 * s[rows]! * Math.ceil(s[columns]! / 16);

/**
 * One query head, or some rows of it, and one partition's sums: what `attend` takes. Addresses 0: absent. The matrices of a
 * client may be float32 or float64 (`Wide`), one of the two. The names are those of `Block`, `ExactPlan` and `Workspace`.
 */
const attention: StructArgument = {
  kind: 'struct',
  name: 'attention',
  words: 'f64',
  fields: [
    // Rows to take, keys, and how many of them have their tiles in memory at once.
    ...([size('rows'), size('keys'), size('window'), size('d'), size('dv')] as const),
    // Ranks; widths of the thin factors; of the right products that are kept.
    ...([size('rq'), size('rk'), size('rvRank'), size('ps'), size('pv'), size('right')] as const),
    // dK and dV at full width: the left factors are Q and G.
    ...([size('fullDk'), size('fullDv'), size('bounded'), size('isTarget')] as const),
    // Floats between rows of G and of the output.
    size('pitch'),
    // beta log2(e); log2(e) times the sink, minus infinity: none; log2(e) times the soft cap, 0: none.
    ...([f64('scale'), f64('sink'), f64('cap')] as const),
    read('f32', 'q', ofSequence(of('d')), small),
    read('f32', 'k', ...ofKeys(of('d'))),
    read('f32', 'v', ...ofKeys(of('dv'))),
    read('f32', 'us', ...ofKeys(({ ps, withUs }) => (withUs ? ps! : 0))),
    read('f32', 'uv', ...ofKeys(({ pv, withUv }) => (withUv ? pv! : 0))),
    // Per key: log2 of how many it stands for. Sums over rows are estimates then, and contradict no one.
    read('f32', 'bias', when('withBias', padded), small),
    read('i32', 'from', when('masked', of('keys')), (draw, { sequence }) =>
      draw.integer(0, sequence!),
    ),
    read('i32', 'to', when('masked', of('keys')), (draw, { sequence }) =>
      draw.integer(0, sequence! + 1),
    ),
    // For each block: the first key that its rows see, the key after the last, and whether a row sees only one.
    read(
      'i32',
      'seen',
      ({ rows }) => 3 * Math.ceil(rows! / ROWS),
      (draw, { keys }, i) =>
        [draw.integer(0, 20), draw.integer(Math.max(1, keys! - 40), keys!), draw.integer(0, 1)][
          i % 3
        ]!,
    ),
    read('i32', 'picked', when('withPicked', of('rows')), (draw, { sequence }) =>
      draw.integer(0, sequence! - 1),
    ),
    read('f32', 'lowQ', ofSequence(of('rq'))),
    // B_K (d, rk) and B_V (dv, rv), packed.
    read('f32', 'bk', panels('d', 'rk')),
    read('f32', 'bv', panels('dv', 'rvRank')),
    // G or the target Y; of the client's forward pass, the logarithms of the sums of e^S, and O.
    read('f32', 'upstream', when('given', unless('wide', pitched))),
    read('f64', 'upstreamWide', when('given', when('wide', pitched))),
    read('f32', 'knownSum', when('withSum', unless('wide', of('sequence')))),
    read('f64', 'knownSumWide', when('withSum', when('wide', of('sequence')))),
    read('f32', 'knownOutput', when('withKnown', unless('wide', pitched))),
    read('f64', 'knownOutputWide', when('withKnown', when('wide', pitched))),
    // Words of other threads: stop where it is not 0; counted up as a sign of life.
    read(
      'i32',
      'stop',
      () => 1,
      () => 0,
    ),
    update('i32', 'beat', () => 0),
    // The partition's sums, and what is kept by row.
    update('f32', 'ls', (s) => (s.withLs ? padded(s) * s.ps! : 0)),
    update('f32', 'lv', (s) => (s.withPicked ? 0 : padded(s) * s.pv!)),
    update('f64', 'outK', ({ d, rk }) => d! * rk!),
    update('f64', 'outV', ({ dv, rvRank }) => dv! * rvRank!),
    update(
      'f64',
      'sinkGradient',
      () => 1,
      () => 3,
    ),
    update('f64', 'loss', () => 1),
    // 1: log_sum_exp, 2: attention_output; and at which row.
    update(
      'i32',
      'contradiction',
      () => 2,
      () => 0,
    ),
    update('f32', 'output', when('withOutput', pitched)),
    update('f32', 'rightQ', ofSequence(of('right'))),
    update('f32', 'normG', of('sequence')),
    update('f32', 'normS', of('sequence')),
    update('f32', 'normQs', of('sequence')),
    update('f32', 'normDq', of('sequence')),
    update('f32', 'normSink', of('sequence')),
    // E and E (dP - G.O) of picked rows, over all keys.
    update(
      'f64',
      'keptE',
      when('withPicked', ({ rows, keys }) => rows! * keys!),
    ),
    update(
      'f64',
      'keptT',
      when('withPicked', (s) => (s.ps ? s.rows! * s.keys! : 0)),
    ),
    // Memory of the thread, with what a block leaves there.
    scratch('f32', 'qPacked', ofRows(of('d'))),
    scratch('f32', 'gPacked', ofRows(of('dv'))),
    scratch('f32', 'qRows', ofRows(of('d'))),
    scratch('f32', 'gRows', ofRows(of('dv'))),
    scratch('f32', 'e', tiles),
    scratch('f32', 't', (s) =>
      s.ps || (s.given && s.sink! > Number.NEGATIVE_INFINITY) ? tiles(s) : 0,
    ),
    scratch('f32', 'slope', (s) => (s.cap ? tiles(s) : 0)),
    ...(['max', 'mean'] as const).map((name) => scratch('f32', name, () => ROWS)),
    ...(['sum', 'dot'] as const).map((name) => scratch('f64', name, () => ROWS)),
    scratch('f32', 'o', when('withO', ofRows(of('dv')))),
    ...(['ws', 'rs'] as const).map((name) => scratch('f32', name, ofRows(of('ps')))),
    ...(['wv', 'rv'] as const).map((name) => scratch('f32', name, ofRows(of('pv')))),
    scratch('f64', 'rightS', ofRows(of('ps'))),
    scratch('f64', 'rightV', ofRows(of('pv'))),
    scratch('f32', 'contracted', ({ d, dv }) => 16 * Math.max(d!, dv!)),
  ],
};

/** All that a head may be: thin or at full width, with and without masks, sinks, a cap and what the client knows. */
function sizes(draw: Draw): Sizes {
  const [sequence, keys] = [draw.integer(1, 150), draw.integer(1, 200)];
  const [d, dv] = [draw.integer(1, 40), draw.integer(1, 40)];
  const rarely = () => Number(draw.integer(0, 3) === 0);
  const given = draw.integer(0, 4) > 0;
  const isTarget = Number(given && draw.flag());
  const withKnown = Number(given && draw.flag());
  const withOutput = Number(!given || draw.integer(0, 3) === 0);
  const withPicked = withOutput ? 0 : rarely();
  const rows = withPicked ? draw.integer(1, 70) : sequence;
  const full = given ? rarely() : 0;
  const [fullDq, fullDk] = full ? [Number(draw.flag()), Number(draw.flag())] : [0, 0];
  const fullDv = given ? rarely() : 0;
  const rank = (none: number) => (none || !given ? 0 : draw.integer(0, 9));
  const [rq, rk, rvRank] = [rank(full), rank(full), rank(fullDv)];
  const ps = roundUp(fullDq || fullDk ? d : rq! + rk!, 8);
  return {
    ...{ sequence, keys, d, dv, rq, rk, rvRank, ps, withPicked, withKnown, withOutput, isTarget },
    ...{ given: Number(given), fullDk, fullDv, right: fullDq ? d : rq },
    ...{
      withUs: Number(rq + rk > 0) || fullDq,
      withLs: withPicked ? 0 : Number(rq + rk > 0) || fullDk,
    },
    ...{ pv: fullDv ? roundUp(dv, 8) : roundUp(rvRank, 8), withUv: Number(rvRank > 0) },
    rows,
    window: draw.flag() ? roundUp(keys, KEYS) : KEYS * draw.integer(1, 3),
    pitch: dv + draw.integer(0, 9),
    withO: Number(withOutput || (isTarget && !withKnown)),
    ...{ withSum: given ? rarely() : 0, wide: rarely(), masked: rarely(), bounded: rarely() },
    withBias: rarely(),
    scale: Math.fround(draw.uniform(0.2, 1)),
    cap: rarely() * 3,
    sink: rarely() ? draw.uniform(-1, 1) : Number.NEGATIVE_INFINITY,
    ...{ first: 0, last: Math.ceil(rows / ROWS), step: draw.integer(1, 2) },
  };
}

export const STAGES = {
  /**
   * Row blocks first, first + step, ... below last of one query head: softmax and backward of each, as the driver in
   * attention/attend.ts says. 1: it was stopped, and what it has written is of no use.
   */
  attend: operation([attention, size('first'), size('last'), size('step')], sizes, {
    returns: true,
    single: true,
  }),
};

export type StageName = keyof typeof STAGES;

export type Stages = {
  readonly [N in StageName]: Callable<(typeof STAGES)[N]>;
};

type Values = Readonly<Record<string, number>>;

/** What the words of the structure are. */
export const ATTENTION: readonly string[] = attention.fields.map(({ name }) => name);

/** The words of the structure, from numbers and addresses by the names of its fields. @param others what `values` lacks. */
export function wordsOfAttention(values: Values, others: Values): number[] {
  return ATTENTION.map((name) => {
    const value = values[name] ?? others[name];
    if (value === undefined) throw new Error(`Attention.${name} is missing`);
    return value;
  });
}
