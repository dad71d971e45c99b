/** The operations of the sampled kernel: what keys are worth to a block of rows, the draw, and what each adds. */
import {
  type Draw,
  f32,
  f64,
  operation,
  read,
  type Sizes,
  scratch,
  size,
  update,
  write,
} from './operation.js';

/** Rows or keys of a panel, and of a block, which meets keys at once. */
export const PANEL = 16;
const BLOCK = 64;
/** Rows whose largest logit with a key stands for them. */
export const GROUP = 4;

/** Steps of a power of two, of a logit; and of 1, of a coordinate at level 0. */
export const STEPS_OF_LOGIT = 256;
/** Constants are no larger: two of them and a product fit a word. */
export const LARGEST_CONSTANT = 2 ** 25;

/** Words of a row in c coordinates that hold bytes: four coordinates each, and what the coordinates leave out. */
const bytesOf = (c: number): number => Math.ceil((c + 1) / 4);
/** Of all its words, its constant and the level of its panel are the last two. */
export const wordsOf = (c: number): number => bytesOf(c) + 2;
/** Words of so many rows, in whole panels. */
export const wordsOfRows = (rows: number, c: number): number =>
  PANEL * Math.ceil(rows / PANEL) * wordsOf(c);
/** Where a word of a row lies in panels (word, row). */
export const placeIn = (c: number, row: number, word: number): number =>
  (Math.floor(row / PANEL) * wordsOf(c) + word) * PANEL + (row % PANEL);

/** A word of rows in panels: of what the coordinates leave out, which is not negative, little. */
const coordinate = (draw: Draw, { c }: Sizes, index: number): number => {
  const word = Math.floor(index / PANEL) % wordsOf(c!);
  if (word === bytesOf(c!)) return draw.integer(-128, 128);
  // The level of a panel is that of its place.
  if (word > bytesOf(c!)) return Math.floor(index / PANEL / wordsOf(c!)) % 3;
  const bytes = Array.from({ length: 4 }, (_, k) => {
    if (4 * word + k > c!) return 0;
    return 4 * word + k === c ? draw.integer(0, 9) : draw.integer(-9, 9);
  });
  return bytes.reduceRight((sum, byte) => (sum << 8) | (byte & 0xff), 0);
};

const panels = (name: string, rows: (s: Sizes) => number) =>
  read('i32', name, (s) => wordsOfRows(rows(s), s.c!), coordinate);

const blockOf = (draw: Draw) => ({
  rows: PANEL * draw.integer(1, BLOCK / PANEL),
  c: draw.integer(1, 66),
});

const positive = (draw: Draw) => draw.uniform(0, 3);
const ofN = ({ n }: Sizes) => n!;
const keysOf = (draw: Draw) => ({ n: draw.integer(1, 90) });

/** Numbers of a size of keys in the sums of `add_keys`, and sizes: half octaves from 2^LEAST_OCTAVE on. */
export const SUMS_OF_SIZE = 8;
export const SIZES_OF_OCTAVE = 2;
export const LEAST_OCTAVE = -100;
export const SIZES = 280;

export const PROXIES = {
  /**
   * sums_i += sum_j 2^(s_ij + v_ij / 2) for rows i of a block x and the rows [first, last) of z in every `step`-th panel from that of
   * the first on, both as `proxy_coordinates` makes them: s_ij is x_i . z_j in c coordinates and the constants of both, v_ij the product
   * of what both leave out. Exponents are 100 at most. Mantissas of powers are a straight line between those of whole
   * numbers: 3 % off on either side. Sums of logits that do not fit a word come out as anything
   */
  proxy_rows: operation(
    [
      ...([size('rows'), size('first'), size('last'), size('step'), size('c')] as const),
      panels('x', ({ rows }) => rows!),
      panels('z', ({ last }) => last!),
      update('f32', 'sums', ({ rows }) => rows!),
    ],
    (draw) => {
      const first = draw.integer(0, 40);
      const last = first + draw.integer(0, 60);
      return { ...blockOf(draw), first, last, step: draw.integer(1, 3) };
    },
  ),
  /**
   * weights_j = size sum_g 2^(2 min(cap_g, max_i s_ij + v_ij)) of the same, over groups g of four rows i of x and for the rows j of z;
   * caps are in steps of 1/256
   */
  proxy_keys: operation(
    [
      ...([size('rows'), size('keys'), size('c'), f32('size')] as const),
      panels('x', ({ rows }) => rows!),
      panels('z', ({ keys }) => keys!),
      read(
        'i32',
        'caps',
        ({ rows }) => rows! / GROUP,
        (draw) => draw.integer(-500, 0),
      ),
      write('f32', 'weights', ({ keys }) => keys!),
    ],
    (draw) => ({ ...blockOf(draw), keys: PANEL * draw.integer(1, 5), size: draw.integer(1, 3) }),
  ),
  /**
   * Rows in panels of 16, (word, row), of x (rows, d + 1): bytes of its first c columns and of `rest` times the squares of the
   * others, 2.08 at most, four in a word; its last column in steps of 1/256; the level of the panel, the least of 0 to 6 at which the first columns
   * fit bytes in steps of 2^level / 16
   */
  proxy_coordinates: operation(
    [
      ...([size('rows'), size('d'), size('c'), f32('rest')] as const),
      read(
        'f32',
        'x',
        ({ rows, d }) => rows! * (d! + 1),
        // Panels have levels of their own, and no number is in the middle between two steps.
        (draw, { d }, index) => {
          const panel = Math.floor(index / ((d! + 1) * PANEL));
          return ((draw.integer(-120, 120) + 0.3) / 16) * 2 ** (panel % 3);
        },
      ),
      write('i32', 'out', ({ rows, c }) => wordsOfRows(rows!, c!)),
    ],
    (draw) => {
      const d = draw.integer(2, 66);
      return { rows: draw.integer(1, 40), d, c: draw.integer(2, d), rest: 0.01 };
    },
  ),
  /** worth_j = spread_j sqrt(squares_j), in float64; returns their sum */
  key_worths: operation(
    [
      ...([size('n'), read('f32', 'squares', ofN, positive)] as const),
      ...([read('f32', 'spread', ofN, positive), write('f64', 'worth', ofN)] as const),
    ],
    keysOf,
    { returns: true, single: true },
  ),
  /**
   * A systematic draw in the order of the keys: key k, with probability pi_k = min(1, max(least, scale p_k)) for
   * p = share worth + even, wherever u + pi_0 + ... + pi_k passes a whole number. Returns how many there are: of those
   * after the first `room` nothing is written
   */
  draw_keys: operation(
    [
      ...([size('n'), size('room'), f64('share'), f64('even'), f64('scale')] as const),
      ...([f64('least'), f64('u'), read('f64', 'worth', ofN, positive)] as const),
      write(
        'i32',
        'index',
        ({ room }) => room!,
        () => 0,
      ),
      write('f64', 'probability', ({ room }) => room!),
    ],
    (draw) => ({
      ...{ ...keysOf(draw), room: draw.integer(1, 60), share: 0.9 },
      ...{
        even: draw.uniform(0, 0.2),
        scale: draw.uniform(0, 1),
        least: 0.01,
        u: draw.uniform(0, 1),
      },
    }),
    { returns: true },
  ),
  /**
   * out_j = |a_j|^2 |x_j - m|^2 for the first n columns of a (keys, lda) and the first p of x (keys, ldx), with m their
   * mean by the weights |a_j|^2
   */
  key_squares: operation(
    [
      ...([size('keys'), size('n')] as const),
      read('f32', 'a', ({ keys, lda }) => keys! * lda!),
      ...([size('lda'), size('p'), read('f32', 'x', ({ keys, ldx }) => keys! * ldx!)] as const),
      ...([size('ldx'), scratch('f32', 'mean', ({ p }) => p!)] as const),
      write('f32', 'out', ({ keys }) => keys!),
    ],
    (draw) => {
      const [n, p] = [draw.integer(1, 40), draw.integer(1, 40)];
      const pitches = { lda: n + draw.integer(0, 5), ldx: p + draw.integer(0, 5) };
      // At least 3 keys: a single key is its own mean, and only rounding would be left.
      return { keys: draw.integer(3, 40), n, p, ...pitches };
    },
  ),
  /**
   * Adds `each` times (1, p, a, b, c, a / p, b / p, c / p) of each key, with p = share worth + even and its squares a, b and c,
   * to the sums of keys of its size, the half octave that p is in
   */
  add_keys: operation(
    [
      ...([
        size('n'),
        f64('each'),
        f64('share'),
        f64('even'),
        read('f64', 'worth', ofN, (draw) => positive(draw) ** 8),
      ] as const),
      ...(['a', 'b', 'c'] as const).map((name) => read('f32', name, ofN, positive)),
      update('f64', 'sums', () => SIZES * SUMS_OF_SIZE),
    ],
    (draw) => ({ ...keysOf(draw), share: 0.9, even: draw.uniform(0, 0.2) }),
  ),
};
