/** The operations of the sampled kernel: what keys are worth to a block of rows, the draw, and what each adds. */
import {
  type ArrayArgument,
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

/** Rows of a panel. */
const PANEL = 16;

/** Steps of one, of a coordinate; and of a power of two, of a logit. */
const STEPS = 64;
export const STEPS_OF_LOGIT = STEPS ** 2;
/** Words of a row in c coordinates: pairs of them, one of what the others leave out, its constant. */
export const wordsOf = (c: number): number => Math.ceil(c / 2) + 2;

const ofRow = (length: (s: Sizes) => number) => (s: Sizes) => wordsOf(s.c!) * length(s);

/** The last two words of a row: the variance that the others leave out, which is not negative, and a constant. */
const coordinate =
  (wordAt: (index: number, words: number) => number) =>
  (draw: Draw, s: Sizes, index: number): number => {
    const words = wordsOf(s.c!);
    const word = wordAt(index, words);
    const whole = (least: number, most: number) => draw.integer(STEPS * least, STEPS * most);
    if (word === words - 1) return STEPS * whole(-0.5, 0.5);
    if (word === words - 2) return whole(0, 3);
    // With an odd number of coordinates the last has half a word.
    const upper = 2 * word + 1 < s.c! ? whole(-0.5, 0.5) : 0;
    return (whole(-0.5, 0.5) & 0xffff) | (upper << 16);
  };

const proxy = (...results: readonly ArrayArgument[]) =>
  operation(
    [
      ...([size('rows'), size('keys'), size('c')] as const),
      read(
        'i32',
        'x',
        ofRow(({ rows }) => rows!),
        coordinate((index, words) => Math.floor(index / PANEL) % words),
      ),
      read(
        'i32',
        'z',
        ofRow(({ keys }) => keys!),
        coordinate((index, words) => index % words),
      ),
      ...results,
    ],
    (draw) => ({
      ...{ rows: PANEL * draw.integer(1, 4), keys: draw.integer(1, 40), c: draw.integer(1, 66) },
    }),
  );

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
   * sums_i += sum_j 2^(s_ij + v_ij / 2) for rows i of x and rows j of z, as `proxy_coordinates` makes them: s_ij is x_i . z_j
   * in c coordinates and the constants of both, v_ij the product of what both leave out, 3 log2(e) at most.
   * x in panels of 16 rows (word, row), z (keys, words); exponents are 100 at most. Mantissas of powers are a straight line
   * between those of whole numbers: 3 % off on either side. Sums of logits that do not fit a word come out as anything
   */
  proxy_rows: proxy(update('f32', 'sums', ({ rows }) => rows!)),
  /** weights_j = sum_i sizes_i min(1, 2^(2 (s_ij + v_ij))) of the same */
  proxy_keys: proxy(
    read('f32', 'sizes', ({ rows }) => rows!, positive),
    write('f32', 'weights', ({ keys }) => keys!),
  ),
  /**
   * Rows of words, (rows, ceil(c / 2) + 2), of x (rows, d + 1): its first c columns in pairs, 16 bits each, the lower first;
   * `rest` times the squares of the others; its last column. In steps of 1/64, the last one of 1/4096, as far as they fit
   */
  proxy_coordinates: operation(
    [
      ...([size('rows'), size('d'), size('c'), f32('rest')] as const),
      read('f32', 'x', ({ rows, d }) => rows! * (d! + 1)),
      write(
        'i32',
        'out',
        ofRow(({ rows }) => rows!),
      ),
    ],
    (draw) => {
      // A step more or less of the rest is little beside the upper half of a word.
      const d = draw.integer(2, 70);
      return { rows: draw.integer(1, 9), d, c: draw.integer(2, d) };
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
