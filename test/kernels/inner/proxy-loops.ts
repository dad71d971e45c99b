/** The loops of the operations of the sampled kernel. */
import type { PROXIES } from '../../../workers/kernels/inner/operations/proxies.js';
import { type Arrays, each, type Loop, type Numbers, panelAt, sum } from './loop.js';

/** 2^x by a straight line between powers, which lies above 2^x by `OFF` on average if it is not lowered. */
const OFF = 176 / 4096;
function line(exponent: number, largest: number): number {
  const x = Math.min(exponent - OFF, largest);
  const whole = Math.floor(x);
  return x < -126 ? 0 : 2 ** whole * (1 + x - whole);
}

const words = (c: number) => Math.ceil(c / 2) + 2;
/** Half of a word as a number: in steps of 1/64. */
const half = (word: number, upper: boolean) => ((upper ? word : word << 16) >> 16) / 64;

/** s and v of a row in panels and a key, as the proxies of the sampled kernel take them. */
function proxy({ c }: Numbers, { x, z }: Arrays, i: number, j: number) {
  const n = words(c!);
  const row = (k: number) => x![panelAt(n, k, i)]!;
  const key = (k: number) => z![j * n + k]!;
  const product = (k: number, upper: boolean) => half(row(k), upper) * half(key(k), upper);
  const s = sum(n - 2, (k) => product(k, false) + product(k, true));
  const constants = (row(n - 1) + key(n - 1)) / 4096;
  return { s: s + constants, v: Math.min(product(n - 2, false), 17728 / 4096) };
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
    each(s.rows!, s.keys!, (i, j) => {
      const { s: score, v } = proxy(s, arrays, i, j);
      sums![i]! += line(score + Math.floor(2048 * v) / 4096, 100);
    }),
  proxy_keys: (s, { weights, sizes, ...arrays }) =>
    each(s.keys!, 1, (j) => {
      weights![j] = sum(s.rows!, (i) => {
        const { s: score, v } = proxy(s, arrays, i, j);
        return sizes![i]! * line(2 * (score + v), 0);
      });
    }),
  proxy_coordinates: ({ rows, d, c, rest }, { x, out }) =>
    each(rows!, words(c!), (i, k) => {
      const at = i * (d! + 1);
      const coordinate = (a: number) => (a < c! ? nearest(64 * x![at + a]!) : 0);
      const pair = (coordinate(2 * k) & 0xffff) | (coordinate(2 * k + 1) << 16);
      const left = nearest(64 * rest! * squareOf(x!, at + c!, d! - c!)) & 0xffff;
      const constant = nearest(4096 * x![at + d!]!);
      out![i * words(c!) + k] = [pair, left, constant][Math.max(0, k + 3 - words(c!))]!;
    }),
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
