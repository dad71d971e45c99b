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

/** The last two numbers of a row: a constant of either sign, and one that is not negative. */
const coordinate =
  (width: (s: Sizes, index: number) => number) =>
  (draw: Draw, s: Sizes, index: number): number => {
    const column = width(s, index);
    return column === s.c! + 1 ? draw.uniform(0, 3) : draw.uniform(-0.5, 0.5);
  };

const proxy = (...results: readonly ArrayArgument[]) =>
  operation(
    [
      ...([size('rows'), size('keys'), size('c')] as const),
      read(
        'f32',
        'x',
        ({ rows, c }) => (c! + 2) * rows!,
        coordinate(({ c }, index) => Math.floor(index / PANEL) % (c! + 2)),
      ),
      read(
        'f32',
        'z',
        ({ keys, c }) => keys! * (c! + 2),
        coordinate(({ c }, index) => index % (c! + 2)),
      ),
      ...results,
    ],
    (draw) => ({
      ...{ rows: PANEL * draw.integer(1, 4), keys: draw.integer(1, 40), c: draw.integer(1, 66) },
    }),
    { rough: true },
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
   * sums_i += sum_j 2^(s_ij + v_ij / 2) for rows i of x and rows j of z, with s_ij = x_i . z_j in c coordinates
   * plus number c of x_i and number c of z_j, and v_ij the product of their last numbers, 3 log2(e) at most.
   * x in panels of 16 rows as `pack_transposed` makes them, z (keys, c + 2); exponents are 100 at most. Mantissas of
   * powers are a straight line between those of whole numbers: 3 % off on either side
   */
  proxy_rows: proxy(update('f32', 'sums', ({ rows }) => rows!)),
  /** weights_j = sum_i sizes_i min(1, 2^(2 (s_ij + v_ij))) of the same */
  proxy_keys: proxy(
    read('f32', 'sizes', ({ rows }) => rows!, positive),
    write('f32', 'weights', ({ keys }) => keys!),
  ),
  /** out (rows, c + 2) = the first c columns of x (rows, d + 1), its last one, and `rest` times the squares of the others */
  proxy_coordinates: operation(
    [
      ...([size('rows'), size('d'), size('c'), f32('rest')] as const),
      read('f32', 'x', ({ rows, d }) => rows! * (d! + 1)),
      write('f32', 'out', ({ rows, c }) => rows! * (c! + 2)),
    ],
    (draw) => {
      const d = draw.integer(1, 70);
      return { rows: draw.integer(1, 9), d, c: draw.integer(1, d) };
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
      // Of a single key, which is its own mean, nothing is left but rounding.
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
