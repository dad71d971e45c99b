/**
 * What single query rows contribute to every gradient, in float64 from the inputs as they came.
 *
 * Keys and values are not projected for a few rows: the row's query is taken back to the space of the
 * inputs instead, where the logit is a product with X^K itself.
 *
 *     S_j  = beta W_K^T q . x^K_j        P = softmax(S)           PX = sum_j P_j x^V_j
 *     dP_j = W_V^T g . x^V_j             dS = P (dP - P.dP)       dSX = sum_j dS_j x^K_j
 *
 * with W the weights including the adapters; the biases of keys and values move all S_j, all dP_j of a row
 * alike. O = W_V PX + b_V sum_j P_j, dS K = W_K dSX + b_K sum_j dS_j: with a sink the first sum is below 1, with
 * a soft cap the second is not 0.
 * Cost: four passes over X a row. Under rotary positions the keys differ by more than their inputs: then
 * K is projected and rotated once for each head that has rows here, and S_j = beta q . k_j, dS K from it.
 */
import { keysOfRow } from '../../mask.js';
import type { AttentionLayer, AttentionProblem, ProjectionName } from '../../problem.js';
import { rotate } from '../rotary.js';
import { rowSoftmax } from '../softmax.js';
import { type AttendedRow, contributionsOf } from './contributions.js';
import type { RankOne } from './estimate.js';
import { HeadWeights } from './head-weights.js';
import type { InputPasses } from './input-passes.js';
import { rotatedKeys } from './rotated-keys.js';
import { keyInputs, type RowOfHead } from './row-of-head.js';

const slice64 = (x: Float32Array | Float64Array, first: number, n: number): Float64Array =>
  Float64Array.from(x.subarray(first, first + n));

/** Softmax and P X^V of `rows`, all of one batch item. */
function attend(layer: AttentionLayer, rows: readonly RowOfHead[], passes: InputPasses) {
  const { dims, inputs, projections, scaling: beta, rotary, sinks } = layer;
  const { queryLength, heads, keyValueHeads, headDim: d, valueDim: dv } = dims;
  const { batchItem } = rows[0]!;
  const { keys: n, XK, XV } = keyInputs(layer, batchItem);
  const weightsOf = (name: ProjectionName, width: number) => {
    const known = new Map<number, HeadWeights>();
    return (head: number) => {
      const found = known.get(head) ?? new HeadWeights(projections[name], head, width);
      known.set(head, found);
      return found;
    };
  };
  const query = weightsOf('q_proj', d);
  const [key, value] = [weightsOf('k_proj', d), weightsOf('v_proj', dv)];
  const placed = rows.map(({ head, row }) => {
    const shared = Math.floor((head * keyValueHeads) / heads);
    const width = projections.q_proj.inFeatures;
    const x = slice64(inputs.query.data, (batchItem * queryLength + row) * width, width);
    const weights = { query: query(head), key: key(shared), value: value(shared) };
    return { batchItem, head, row, shared, ...weights, x };
  });
  const projected = byHead(
    placed,
    'query',
    ({ x }) => x,
    (weights, xs) => weights.apply(xs, passes),
  );
  const all = placed.map((one, k) => {
    const q = one.query.addBias(projected[k]!);
    if (rotary) rotate(rotary, batchItem, one.row, q, q.length);
    return { ...one, q };
  });
  const rotated = new Map<number, Float64Array>();
  for (const { shared, key } of rotary ? all : []) {
    if (rotated.has(shared)) continue;
    rotated.set(shared, rotatedKeys(layer, key, batchItem, XK, n, passes));
  }
  const scores = rotary
    ? all.map(({ shared, q }) => passes.dots(rotated.get(shared)!, n, [q])[0]!)
    : passes.dots(
        XK,
        n,
        byHead(
          all,
          'key',
          ({ q }) => q,
          (weights, qs) => weights.back(qs, passes),
        ),
      );
  const weights = all.map(({ head, row, key, q }, k) => {
    passes.checkpoint();
    const shift = rotary ? 0 : key.biasDot(q);
    const logits = scores[k]!;
    for (let j = 0; j < n; j++) logits[j] = beta * (logits[j]! + shift);
    return rowSoftmax(layer, logits, keysOfRow(layer, batchItem, row), sinks?.data[head]);
  });
  const PX = passes.combine(
    XV,
    n,
    weights.map(({ P }) => P),
  );
  return { all, n, XK, XV, rotated, weights, PX };
}

type RowWeights = Readonly<Record<'query' | 'key' | 'value', HeadWeights>>;

/** What `product` makes of a vector of each row, with rows of the same weights together. */
function byHead<Row extends RowWeights>(
  rows: readonly Row[],
  name: keyof RowWeights,
  vectorOf: (row: Row, k: number) => Float64Array,
  product: (weights: HeadWeights, vectors: readonly Float64Array[]) => Float64Array[],
): Float64Array[] {
  const out: Float64Array[] = [];
  for (const weights of new Set(rows.map((row) => row[name]))) {
    const mine = rows.flatMap((row, k) => (row[name] === weights ? [k] : []));
    const found = product(
      weights,
      mine.map((k) => vectorOf(rows[k]!, k)),
    );
    for (const [x, k] of mine.entries()) out[k] = found[x]!;
  }
  return out;
}

/** Rows of the attention output, (dv) each; `rows` are all of one batch item. */
export function exactOutputs(
  layer: AttentionLayer,
  rows: readonly RowOfHead[],
  passes: InputPasses,
): Float64Array[] {
  return outputsOf(attend(layer, rows, passes), passes);
}

function outputsOf({ all, PX, weights }: ReturnType<typeof attend>, passes: InputPasses) {
  const O = byHead(
    all,
    'value',
    (_, k) => PX[k]!,
    (value, xs) => value.apply(xs, passes),
  );
  return all.map(({ value }, k) => value.addBias(O[k]!, sumOf(weights[k]!.P)));
}

/** Contributions of `rows`, all of one batch item, by tensor name; the factors s beta included. */
export function exactContributions(
  problem: AttentionProblem,
  rows: readonly RowOfHead[],
  passes: InputPasses,
): Map<string, RankOne>[] {
  return exactRows(problem, rows, passes).map((row) => contributionsOf(problem, row));
}

/** The backward pass of `rows`, all of one batch item. */
export function exactRows(
  problem: AttentionProblem,
  rows: readonly RowOfHead[],
  passes: InputPasses,
): AttendedRow[] {
  const { dims, objective, rotary } = problem;
  const { queryLength, heads, valueDim: dv } = dims;
  const attended = attend(problem, rows, passes);
  const { all, n, XK, XV, rotated, weights, PX } = attended;
  const O = objective.kind === 'target' ? outputsOf(attended, passes) : null;
  const G = all.map(({ batchItem, head, row }, k) => {
    const at = ((batchItem * queryLength + row) * heads + head) * dv;
    const given = slice64(objective.tensor.data, at, dv);
    return O ? O[k]!.map((o, c) => o - given[c]!) : given;
  });
  const dS = passes.dots(
    XV,
    n,
    byHead(
      all,
      'value',
      (_, k) => G[k]!,
      (value, ys) => value.back(ys, passes),
    ),
  );
  const sinks = dS.map((t, k) => {
    passes.checkpoint();
    const { P, slope, sink } = weights[k]!;
    const shift = all[k]!.value.biasDot(G[k]!);
    let mean = 0;
    for (let j = 0; j < t.length; j++) mean += P[j]! * (t[j]! + shift);
    for (let j = 0; j < t.length; j++) {
      t[j] = P[j]! * (t[j]! + shift - mean) * (slope ? slope[j]! : 1);
    }
    return -sink * mean;
  });
  const dSX = rotary ? [] : passes.combine(XK, n, dS);
  const back = rotary
    ? []
    : byHead(
        all,
        'key',
        (_, k) => dSX[k]!,
        (key, xs) => key.apply(xs, passes),
      );
  return all.map((row, k) => {
    const dSK = rotary
      ? passes.combine(rotated.get(row.shared)!, n, [dS[k]!])[0]!
      : row.key.addBias(back[k]!, sumOf(dS[k]!));
    const { P } = weights[k]!;
    return { ...row, g: G[k]!, P, dS: dS[k]!, dSK, PX: PX[k]!, dSX: dSX[k], sink: sinks[k]! };
  });
}

function sumOf(x: Float64Array): number {
  let sum = 0;
  for (let j = 0; j < x.length; j++) sum += x[j]!;
  return sum;
}
