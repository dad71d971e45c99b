/** The loops of the operations of the sampled kernel. */
import type { PROXIES } from '../../../workers/kernels/inner/operations/proxies.js';
import { type Arrays, each, type Loop, type Numbers, panelAt, sum } from './loop.js';

/** 2^x by a straight line between powers, which lies above 2^x by `OFF` on average if it is not lowered. */
const OFF = 12 / 256;
function line(exponent: number, largest: number): number {
  const x = Math.min(exponent - OFF, largest);
  const whole = Math.floor(x);
  return x < -126 ? 0 : 2 ** whole * (1 + x - whole);
}

const words = (c: number) => Math.ceil((c + 1) / 4) + 2;
/** A byte of a word as a number. */
const byteOf = (word: number, place: number) => (word << (24 - 8 * place)) >> 24;

/** s and v of rows of two arrays of panels, as the proxies of the sampled kernel take them, in whole steps of their levels. */
function proxy({ c }: Numbers, { x, z }: Arrays, i: number, j: number) {
  const n = words(c!);
  const word = (of: Float64Array, row: number, k: number) => of[panelAt(n, k, row)]!;
  const byte = (of: Float64Array, row: number, a: number) => byteOf(word(of, row, a >> 2), a & 3);
  const level = word(x!, i, n - 1) + word(z!, j, n - 1);
  // Of the constant of a row what is less than a step of both levels is left out.
  const constants =
    word(x!, i, n - 2) - (word(x!, i, n - 2) & (2 ** level - 1)) + word(z!, j, n - 2);
  const s = 2 ** level * sum(c!, (a) => byte(x!, i, a) * byte(z!, j, a)) + constants;
  const [row, key] = [byte(x!, i, c!), byte(z!, j, c!)];
  return { s: s / 256, rest: (2 ** level * key) / 256, row };
}

/** The nearest whole number, the even one of two. */
function nearest(x: number): number {
  const below = Math.floor(x);
  const over = x - below;
  return over < 0.5 || (over === 0.5 && below % 2 === 0) ? below : below + 1;
}

const squareOf = (x: Float64Array, at: number, n: number) => sum(n, (c) => x[at + c]! ** 2);

export const PROXY_LOOPS: Readonly<Record<keyof typeof PROXIES, Loop>> = {
  proxy_rows: (s, { sums, ...arrays }) =>
    each(s.rows!, s.last!, (i, j) => {
      if (j < s.first! || (Math.floor(j / 16) - Math.floor(s.first! / 16)) % s.step! > 0) return;
      const { s: score, rest, row } = proxy(s, arrays, i, j);
      sums![i]! += line(score + Math.floor(row / 2) * rest, 100);
    }),
  proxy_keys: (s, { weights, caps, ...arrays }) =>
    each(s.keys!, 1, (j) => {
      weights![j] = sum(s.rows! / 4, (g) => {
        const logits = [0, 1, 2, 3].map((k) => {
          const { s: score, rest, row } = proxy(s, arrays, 4 * g + k, j);
          return score + row * rest;
        });
        return s.size! * line(2 * Math.max(...logits), (2 * caps![g]!) / 256);
      });
    }),
  proxy_coordinates: ({ rows, d, c, rest }, { x, out }) => {
    const [n, wide] = [words(c!), d! + 1];
    for (let panel = 0; panel < rows!; panel += 16) {
      const count = Math.min(16, rows! - panel);
      const row = (i: number) => (panel + i) * wide;
      let largest = 0;
      each(count, c!, (i, a) => {
        largest = Math.max(largest, Math.abs(x![row(i) + a]!));
      });
      const level = [0, 1, 2, 3, 4, 5].find((l) => (16 / 2 ** l) * largest <= 127) ?? 6;
      const steps = (y: number) => Math.max(-127, Math.min(127, nearest((16 / 2 ** level) * y)));
      each(n, 16, (k, i) => {
        const byte = (a: number) => {
          if (i >= count || a > c!) return 0;
          if (a < c!) return steps(x![row(i) + a]!);
          return steps(Math.min(2.08, rest! * squareOf(x!, row(i) + c!, d! - c!)));
        };
        const bytes = [0, 1, 2, 3].map((b) => (byte(4 * k + b) & 0xff) << (8 * b));
        const constant = i < count ? nearest(256 * x![row(i) + d!]!) : 0;
        const word = [bytes.reduce((all, b) => all | b), constant, level][Math.max(0, k + 3 - n)]!;
        out![panelAt(n, k, panel + i)] = word;
      });
    }
  },
  key_worths: ({ n }, { squares, spread, worth }) => {
    each(n!, 1, (j) => (worth![j] = spread![j]! * Math.sqrt(squares![j]!)));
    return sum(n!, (j) => worth![j]!);
  },
  draw_keys: (s, { worth, index, probability }) => {
    const p = worth!.map((w) => s.share! * w + s.even!);
    const pi = p.map((x) => Math.min(1, Math.max(s.least!, s.scale! * x)));
    const before = (k: number) => Math.floor(s.u! + sum(k, (j) => pi[j]!));
    const drawn = Array.from(pi.keys()).filter((k) => before(k + 1) > before(k));
    drawn.slice(0, s.room).forEach((k, place) => {
      index![place] = k;
      probability![place] = pi[k]!;
    });
    return drawn.length;
  },
  key_squares: ({ keys, n, lda, p, ldx }, { a, x, out }) => {
    const squares = Array.from({ length: keys! }, (_, j) => squareOf(a!, j * lda!, n!));
    const total = sum(keys!, (j) => squares[j]!);
    const mean = (c: number) => sum(keys!, (j) => squares[j]! * x![j * ldx! + c]!) / total;
    each(keys!, 1, (j) => {
      out![j] = squares[j]! * sum(p!, (c) => (x![j * ldx! + c]! - mean(c)) ** 2);
    });
  },
  add_keys: ({ n, each: times, share, even }, { worth, a, b, c, sums }) =>
    each(n!, 1, (k) => {
      const p = share! * worth![k]! + even!;
      if (!(p > 0)) return;
      const squares = [a!, b!, c!].map((x) => x[k]!);
      const terms = [1, p, ...squares, ...squares.map((x) => x / p)];
      const at = terms.length * Math.floor(2 * (Math.log2(p) + 100));
      for (const [place, x] of terms.entries()) sums![at + place]! += times! * x;
    }),
};
