/**
 * The rounding error of the gradients of attention states: sampled rows once more through the kernel, and in
 * float64. A row adds to dK and dV of its key/value head and is a row of dQ by itself; heads and batch items
 * do not share entries, so what the draws of each add up to is all that the norm of the mean needs.
 */
import { keysOfRow, type Range } from '../../../mask.js';
import type { AttentionProblem } from '../../../problem.js';
import type { TensorData } from '../../../tensor/tensor.js';
import type { ExactPlan, Unit, Workspace } from '../../attention/plan.js';
import type { ErrorEstimate } from '../../estimate/estimate.js';
import { meanError } from '../../estimate/mean.js';
import { keyInputs } from '../../estimate/row-of-head.js';
import { sampleRows } from '../../estimate/rows.js';
import type { Wasm } from '../../inner/instance.js';
import { rowSoftmax } from '../../softmax.js';
import { familiesOf, headsOfWave } from '../tasks.js';
import type { Draw } from './kernel-rows.js';
import { blocksOf, type KernelRow, kernelRows } from './kernel-rows.js';

const NAMES = ['query', 'key', 'value', 'sinks'] as const;
type Name = (typeof NAMES)[number];

/** What the draws D of a wave, each over its probability, say about one gradient. */
export interface DrawnError {
  /** |sum D|^2 */
  square: number;
  /** sum of |D|^2, and the largest |D|. */
  squares: number;
  largest: number;
}

export type DrawnErrors = Readonly<Record<Name, DrawnError>>;

export interface StateSampleTask {
  readonly kernel: 'exact';
  readonly step: 'sample_states';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly wave: number;
  /** All draws of some units. */
  readonly draws: readonly Draw[];
}

/** Rows drawn by what they carry; the draws of a unit are in one task. */
export function stateSampleTasks(
  plan: ExactPlan,
  workspace: Workspace,
  wave: number,
  count: number,
  seed: number,
  tasks: number,
): StateSampleTask[] {
  const { queryLength } = plan.problem.dims;
  const heads = headsOfWave(plan, wave);
  const rows = heads.length * queryLength;
  const draws = sampleRows(familiesOf(workspace, rows), rows, count, seed + wave)
    .sort((a, b) => a.index - b.index)
    .map(({ index, ...row }): Draw => {
      const head = heads[Math.floor(index / queryLength)]!;
      return { lane: { ...head, lane: 0 }, row: index % queryLength, ...row };
    });
  const units = [...new Set(draws.map(({ lane }) => lane.unit))];
  return Array.from({ length: tasks }, (_, k) =>
    draws.filter(({ lane }) => units.indexOf(lane.unit) % tasks === k),
  )
    .filter((mine) => mine.length > 0)
    .map((mine) => ({
      kernel: 'exact',
      step: 'sample_states',
      plan,
      workspace,
      wave,
      draws: mine,
    }));
}

export function runStateSample(
  task: StateSampleTask,
  wasm: Wasm,
  checkpoint: () => void,
): DrawnErrors {
  const errors = noErrors();
  for (const unit of new Set(task.draws.map(({ lane }) => lane.unit))) {
    const draws = task.draws.filter(({ lane }) => lane.unit === unit);
    const kernel = blocksOf(task, draws).flatMap((block) =>
      kernelRows(task, wasm, block, checkpoint),
    );
    addUnit(task.plan.problem as AttentionProblem, unit, draws, kernel, errors, checkpoint);
  }
  return errors;
}

export const noErrors = (): DrawnErrors => ({
  query: { square: 0, squares: 0, largest: 0 },
  key: { square: 0, squares: 0, largest: 0 },
  value: { square: 0, squares: 0, largest: 0 },
  sinks: { square: 0, squares: 0, largest: 0 },
});

/** Adds what one task found to what others did: units share no entries of a gradient. */
export function addErrors(total: DrawnErrors, part: DrawnErrors): void {
  for (const name of NAMES) {
    total[name].square += part[name].square;
    total[name].squares += part[name].squares;
    total[name].largest = Math.max(total[name].largest, part[name].largest);
  }
}

/**
 * @param waves draws of each wave, and what they say. @param squares |gradient|^2, by name.
 * @param rounding relative error that rows by themselves cannot show.
 */
export function stateErrors(
  waves: readonly { readonly draws: number; readonly errors: DrawnErrors }[],
  squares: Readonly<Partial<Record<Name, number>>>,
  rounding: number,
): Record<string, ErrorEstimate> {
  const rows = waves.reduce((sum, { draws }) => sum + draws, 0);
  const names = NAMES.filter((name) => squares[name] !== undefined);
  return Object.fromEntries(
    names.map((name) => {
      const parts = waves.map(({ draws, errors }) => {
        const { square, squares, largest } = errors[name];
        return meanError(draws, Math.sqrt(square) / draws, squares, largest);
      });
      const size = Math.sqrt(squares[name]!);
      const of = (value: (part: (typeof parts)[number]) => number) =>
        size > 0 ? Math.hypot(...parts.map(value)) / size : 0;
      const relative = of(({ norm }) => norm);
      const limit = of(({ norm, deviation, unseen }) => norm + deviation + unseen);
      return [
        name,
        {
          ...{ relative, upper: size > 0 ? limit + rounding : 0, confidence: 0.99 },
          ...{ standard_error: of(({ standardError }) => standardError), rows_sampled: rows },
        } as const,
      ];
    }),
  );
}

/** All draws of one key/value head: their differences, and the norm of the sum of them. */
function addUnit(
  problem: AttentionProblem,
  unit: Unit,
  draws: readonly Draw[],
  kernel: readonly KernelRow[],
  errors: DrawnErrors,
  checkpoint: () => void,
): void {
  const { dims, inputs, scaling: beta } = problem;
  const { batchItem, sharedHead } = unit;
  const { headDim: d, valueDim: dv } = dims;
  const { keys } = keyInputs(problem, batchItem);
  const first = batchItem * dims.keyLength;
  const K = band(inputs.key.data, first, keys, dims.keyValueHeads, sharedHead, d);
  const V = band(inputs.value.data, first, keys, dims.keyValueHeads, sharedHead, dv);
  const rows = new Map<number, Float64Array>();
  const sinks = new Map<number, Float64Array>();
  const [dK, dV] = [new Float64Array(keys * d), new Float64Array(keys * dv)];
  const book = (name: Name, square: number) => {
    errors[name].squares += square;
    errors[name].largest = Math.max(errors[name].largest, Math.sqrt(square));
  };
  draws.forEach(({ lane, row, probability }, k) => {
    checkpoint();
    const exact = exactRow(problem, batchItem, lane.head, row, K, V);
    const { e, t, inverse, q, ws, wv, g, rights, sink } = kernel[k]!;
    const place = lane.head * dims.queryLength + row;
    const ofQuery = exact.dSK.map((x, c) => (beta * (x - rights[c]!)) / probability);
    book('query', addTo(rows, place, ofQuery));
    book('sinks', addTo(sinks, lane.head, Float64Array.of((exact.sink - sink) / probability)));
    const used = (x: Float64Array, y: Float64Array, whole: Float64Array) =>
      inverse > 0 ? whole.map((_, c) => x[c]! / inverse) : y;
    const ofKey = { exact: exact.dS, used: t.map((x) => x * inverse), left: exact.q };
    book('key', addOuter(dK, ofKey, used(ws, q, exact.q), beta / probability));
    const ofValue = { exact: exact.P, used: e.map((x) => x * inverse), left: exact.g };
    book('value', addOuter(dV, ofValue, used(wv, g, exact.g), 1 / probability));
  });
  const squareOf = (x: Float64Array) => x.reduce((sum, y) => sum + y * y, 0);
  for (const sum of rows.values()) errors.query.square += squareOf(sum);
  for (const sum of sinks.values()) errors.sinks.square += squareOf(sum);
  errors.key.square += squareOf(dK);
  errors.value.square += squareOf(dV);
}

/** Rows of one head of a tensor (L, heads, width), in float64. */
function band(
  data: TensorData,
  first: number,
  rows: number,
  heads: number,
  head: number,
  width: number,
): Float64Array {
  const out = new Float64Array(rows * width);
  for (let i = 0; i < rows; i++) {
    const at = ((first + i) * heads + head) * width;
    out.set(data.subarray(at, at + width), i * width);
  }
  return out;
}

/** The backward pass of one row in float64. */
function exactRow(
  problem: AttentionProblem,
  batchItem: number,
  head: number,
  row: number,
  K: Float64Array,
  V: Float64Array,
) {
  const { dims, inputs, objective, scaling: beta, sinks } = problem;
  const { headDim: d, valueDim: dv } = dims;
  const token = batchItem * dims.queryLength + row;
  const q = band(inputs.query.data, token, 1, dims.heads, head, d);
  const given = band(objective.tensor.data, token, 1, dims.heads, head, dv);
  const seen = keysOfRow(problem, batchItem, row);
  const logits = times(K, q, seen).map((s) => beta * s);
  const { P, slope, sink } = rowSoftmax(problem, logits, seen, sinks?.data[head]);
  const g =
    objective.kind === 'target' ? combine(P, V, dv, seen).map((o, c) => o - given[c]!) : given;
  const dP = times(V, g, seen);
  const mean = dP.reduce((sum, x, j) => sum + P[j]! * x, 0);
  const dS = dP.map((x, j) => P[j]! * (x - mean) * (slope ? slope[j]! : 1));
  return { q, g, P, dS, dSK: combine(dS, K, d, seen), sink: -sink * mean };
}

/** X y for X (n, y.length), on the rows that are seen. */
function times(X: Float64Array, y: Float64Array, { first, last }: Range): Float64Array {
  const out = new Float64Array(X.length / y.length);
  for (let j = first, at = first * y.length; j < last; j++) {
    let sum = 0;
    for (let c = 0; c < y.length; c++, at++) sum += X[at]! * y[c]!;
    out[j] = sum;
  }
  return out;
}

/** w^T X for X (w.length, width), over the rows that are seen. */
function combine(
  w: Float64Array,
  X: Float64Array,
  width: number,
  { first, last }: Range,
): Float64Array {
  const out = new Float64Array(width);
  for (let j = first, at = first * width; j < last; j++) {
    for (let c = 0; c < width; c++, at++) out[c]! += w[j]! * X[at]!;
  }
  return out;
}

/** Adds x to the sum of its place. @returns |x|^2 */
function addTo(sums: Map<number, Float64Array>, place: number, x: Float64Array): number {
  const sum = sums.get(place) ?? new Float64Array(x.length);
  let square = 0;
  for (let c = 0; c < x.length; c++) {
    sum[c]! += x[c]!;
    square += x[c]! ** 2;
  }
  sums.set(place, sum);
  return square;
}

/**
 * sum += D, D = scale (exact left^T - used usedLeft^T), written without cancellation.
 *
 * @returns |D|^2
 */
function addOuter(
  sum: Float64Array,
  { exact, used, left }: Readonly<Record<'exact' | 'used' | 'left', Float64Array>>,
  usedLeft: Float64Array,
  scale: number,
): number {
  const width = left.length;
  const off = left.map((x, c) => x - usedLeft[c]!);
  let square = 0;
  for (let j = 0, at = 0; j < exact.length; j++) {
    const [x, y] = [scale * (exact[j]! - used[j]!), scale * used[j]!];
    if (x === 0 && y === 0) {
      at += width;
      continue;
    }
    for (let c = 0; c < width; c++, at++) {
      const value = x * left[c]! + y * off[c]!;
      sum[at]! += value;
      square += value * value;
    }
  }
  return square;
}
