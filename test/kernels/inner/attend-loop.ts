/** What the stage `attend` computes, row by row in float64, as its definition in attention/attend.ts says. */
import { KEYS, ROWS } from '../../../workers/kernels/inner/block.js';

type Arrays = Readonly<Record<string, Float64Array>>;
type Numbers = Readonly<Record<string, number>>;

const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const total = (x: readonly number[]) => x.reduce((a, b) => a + b, 0);
const norm = (x: readonly number[]) => Math.sqrt(total(x.map((a) => a * a)));
const packedAt = (k: number, i: number, j: number) => (Math.floor(j / 16) * k + i) * 16 + (j % 16);

/** x (n) times the packed matrix (n, columns). */
const times = (x: readonly number[], packed: Float64Array, columns: number) =>
  range(columns).map((c) => total(x.map((a, i) => a * packed[packedAt(x.length, i, c)]!)));

export function attend(s: Numbers, arrays: Arrays): number {
  for (let block = s.first!; block < s.last!; block += s.step!) attendBlock(s, arrays, block);
  return 0;
}

function attendBlock(s: Numbers, a: Arrays, block: number): void {
  const first = block * ROWS;
  const listed = range(Math.min(ROWS, s.rows! - first)).map((i) => first + i);
  const rowOf = (i: number) => (a.picked!.length > 0 ? a.picked![i]! : i);
  // Tiles that no row of the block sees are passed over, and the rows of a block are filled up to 16.
  const firstRow = rowOf(first);
  const filled = range(Math.ceil(listed.length / 16) * 16).map((i) => firstRow + i);
  const sees = (position: number, j: number) =>
    j < a.seen![3 * block + 1]! &&
    (a.from!.length === 0 || (position >= a.from![j]! && position < a.to![j]!));
  const [least, end] = a.seen!.subarray(3 * block, 3 * block + 2);
  const keys = range(end!).filter((j) => j >= least! - (least! % KEYS));
  if (least! >= end!) keys.length = 0;
  const hidden = (j: number) => {
    const tile = keys.filter((x) => Math.floor(x / KEYS) === Math.floor(j / KEYS));
    return !tile.some((x) => filled.some((position) => sees(position, x)));
  };
  const shown = keys.filter((j) => !hidden(j));
  const off = listed.map((index, i) =>
    attendRow(s, a, {
      ...{ row: rowOf(index), index, block },
      keys: shown.filter((j) => sees(firstRow + i, j)),
    }),
  );
  // The sums of all rows of a block are looked at before its outputs.
  for (const [kind, name] of [
    [1, 'log_sum_exp'],
    [2, 'attention_output'],
  ] as const) {
    const found = off.findIndex((one) => one[name]);
    if (found < 0 || a.contradiction![0]! > 0) continue;
    a.contradiction!.set([kind, rowOf(first + found)]);
  }
}

interface Off {
  readonly log_sum_exp: boolean;
  readonly attention_output: boolean;
}

interface Row {
  readonly row: number;
  readonly index: number;
  readonly block: number;
  readonly keys: readonly number[];
}

const part = (x: Float64Array, index: number, width: number) => [
  ...x.subarray(index * width, (index + 1) * width),
];
const eitherOf = (a: Arrays, name: string) => (a[name]!.length > 0 ? a[name]! : a[`${name}Wide`]!);

function attendRow(s: Numbers, a: Arrays, { row, index, block, keys }: Row): Off {
  const q = part(a.q!, row, s.d!);
  const outputAt = row * s.pitch!;
  const values = (x: Float64Array) => [...x.subarray(outputAt, outputAt + s.dv!)];
  const plain = keys.map((j) => s.scale! * total(q.map((x, c) => x * a.k![j * s.d! + c]!)));
  const listed = a.bias!.length > 0;
  const logits = plain.map(
    (x, k) => (s.cap ? s.cap * Math.tanh(x / s.cap) : x) + (listed ? a.bias![keys[k]!]! : 0),
  );
  const slopes = plain.map((x) => (s.cap ? 1 - Math.tanh(x / s.cap) ** 2 : 1));
  const known = eitherOf(a, 'knownSum');
  const knownLog = known.length > 0 ? Math.LOG2E * known[row]! : null;
  const bounded = a.seen![3 * block + 2]! ? 0 : s.bounded ? 1 : knownLog === null ? 0 : 2;
  const max = bounded === 1 ? 0 : bounded === 2 ? knownLog! : Math.max(s.sink!, ...logits);
  const weights = logits.map((x) => 2 ** (x - max));
  const sinkWeight = s.sink === Number.NEGATIVE_INFINITY ? 0 : 2 ** (s.sink! - max);
  const sum = sinkWeight + total(weights);
  const inverse = sum > 0 ? 1 / sum : 0;
  const P = weights.map((x) => x * inverse);
  const V = keys.map((j) => part(a.v!, j, s.dv!));
  const O = range(s.dv!).map((c) => total(P.map((p, k) => p * V[k]![c]!)));

  const upstream = eitherOf(a, 'upstream');
  const output = eitherOf(a, 'knownOutput');
  const hasObjective = upstream.length > 0;
  const usesOutput = s.isTarget === 1 && output.length > 0 && !s.withO;
  let G = hasObjective ? values(upstream) : O;
  if (s.isTarget) G = (usesOutput ? values(output) : O).map((x, c) => x - G[c]!);
  if (s.withO && a.output!.length > 0) a.output!.set(O, outputAt);
  if (!hasObjective || s.isTarget) a.loss![0]! += 0.5 * total(G.map((x) => x * x));
  const picked = a.picked!.length > 0;
  if (hasObjective && !picked) a.normG![row] = norm(G);

  const dP = V.map((v) => total(v.map((x, c) => x * G[c]!)));
  const mean = a.t!.length > 0 ? total(P.map((p, k) => p * dP[k]!)) : 0;
  const dS = P.map((p, k) => p * (dP[k]! - mean) * slopes[k]!);
  const off = {
    log_sum_exp:
      !listed && knownLog !== null && sum > 0 && Math.abs(Math.log2(sum) + max - knownLog) > 1,
    attention_output: !listed && usesOutput && a.t!.length > 0 && !isNear(values(output), G, mean),
  };
  const ws = [...times(q, a.bk!, s.rk!), ...part(a.lowQ!, row, s.rq!)];
  const wv = s.fullDv ? G : times(G, a.bv!, s.rvRank!);
  const left = (x: Float64Array, width: number, by: readonly number[], of: readonly number[]) =>
    keys.forEach((j, k) => {
      for (const [c, w] of by.entries()) x[j * width + c]! += of[k]! * w;
    });
  if (a.ls!.length > 0) left(a.ls!, s.ps!, s.fullDk ? q : ws, dS);
  if (hasObjective && a.lv!.length > 0) left(a.lv!, s.pv!, wv, P);
  if (picked) {
    const [least, end] = a.seen!.subarray(3 * block, 3 * block + 2);
    for (let j = least!; j < end!; j++) {
      const k = keys.indexOf(j);
      const at = index * s.keys! + j;
      if (s.ps! + s.pv! > 0) a.keptE![at] = k < 0 ? 0 : weights[k]!;
      if (s.ps! > 0) a.keptT![at] = k < 0 ? 0 : dS[k]! * sum;
    }
    return off;
  }
  const right = (u: Float64Array, width: number, of: readonly number[]) =>
    range(u.length > 0 ? width : 0).map((c) =>
      total(keys.map((j, k) => of[k]! * u[j * width + c]!)),
    );
  const rightS = right(a.us!, s.ps!, dS);
  const rightV = right(a.uv!, s.pv!, P);
  a.normS![row] = norm(rightS);
  a.normQs![row] = norm(rightS) * norm(q);
  a.normDq![row] = Math.abs(mean) * norm(q);
  a.rightQ!.set(rightS.slice(0, s.right), row * s.right!);
  const add = (out: Float64Array, x: readonly number[], y: readonly number[]) =>
    x.forEach((u, i) => {
      for (const [c, w] of y.entries()) out[i * y.length + c]! += u * w;
    });
  add(a.outK!, q, rightS.slice(s.rq, s.rq! + s.rk!));
  add(a.outV!, G, rightV.slice(0, s.rvRank));
  if (s.sink! > Number.NEGATIVE_INFINITY && hasObjective) {
    const p = listed && knownLog !== null ? 2 ** (s.sink! - knownLog) : sinkWeight * inverse;
    a.sinkGradient![0]! -= p * mean;
    a.normSink![row] = Math.abs(p * mean);
  }
  return off;
}

/** Whether G.O is what the weights say, up to the rounding of bfloat16. */
function isNear(O: readonly number[], G: readonly number[], mean: number): boolean {
  const dot = total(O.map((o, c) => o * G[c]!));
  return Math.abs(dot - mean) <= 2 ** -5 * norm(O) * norm(G);
}
