/**
 * The rounding error of the gradients of attention states: sampled rows once more through the kernel, and in
 * float64. A row adds to dK and dV of its key/value head and is a row of dQ by itself; heads and batch items
 * do not share entries, so what the draws of each add up to is all that the norm of the mean needs.
 */
import type { AttentionProblem } from '../../../problem.js';
import type { Tensor } from '../../../tensor/tensor.js';
import type { ExactPlan, HeadGroup, Workspace } from '../../attention/plan.js';
import type { ErrorEstimate } from '../../estimate/estimate.js';
import { exactRows } from '../../estimate/exact-rows.js';
import { InputPasses } from '../../estimate/input-passes.js';
import { meanError } from '../../estimate/mean.js';
import type { Wasm } from '../../inner/instance.js';
import { slice } from '../../inner/operands.js';
import { takePart } from '../../parts/take.js';
import { drawRows } from './draw.js';
import { type Draw, type KernelRows, kernelRows } from './kernel-rows.js';

const NAMES = ['query', 'key', 'value', 'sinks'] as const;
type Name = (typeof NAMES)[number];

/** What the draws D of a wave, each over its probability, say about one gradient. */
interface DrawnError {
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
  /** All draws of some head groups. */
  readonly draws: readonly Draw[];
}

/** Rows drawn by what they carry; the draws of a head group are in one task. */
export function stateSampleTasks(
  plan: ExactPlan,
  workspace: Workspace,
  wave: number,
  count: number,
  seed: number,
  tasks: number,
): StateSampleTask[] {
  const draws = drawRows(plan, workspace, wave, count, seed);
  const headGroups = [...new Set(draws.map(({ partition }) => partition.headGroup))];
  return Array.from({ length: tasks }, (_, k) =>
    draws.filter(({ partition }) => headGroups.indexOf(partition.headGroup) % tasks === k),
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
  const problem = task.plan.problem as AttentionProblem;
  for (const headGroup of new Set(task.draws.map(({ partition }) => partition.headGroup))) {
    const draws = task.draws.filter(({ partition }) => partition.headGroup === headGroup);
    const kernel = kernelRows(task, wasm, draws, checkpoint);
    wasm.reset();
    addHeadGroup(problem, headGroup, draws, kernel, errors, new InputPasses(wasm, checkpoint));
  }
  return errors;
}

/** The smallest number of float32. */
const LEAST = 2 ** -149;

export const noErrors = (): DrawnErrors => ({
  query: { square: 0, squares: 0, largest: 0 },
  key: { square: 0, squares: 0, largest: 0 },
  value: { square: 0, squares: 0, largest: 0 },
  sinks: { square: 0, squares: 0, largest: 0 },
});

/** Adds what one task found to what others did: head groups share no entries of a gradient. */
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
      // A gradient that came out as 0 is off by all of itself, unless it has no number that float32 knows.
      const off = waves.some(({ errors }) => errors[name].largest >= LEAST) ? 1 : 0;
      const of = (value: (part: (typeof parts)[number]) => number) =>
        size > 0 ? Math.hypot(...parts.map(value)) / size : off;
      const relative = of(({ norm }) => norm);
      const limit = of(({ norm, deviation, unseen }) => norm + deviation + unseen);
      return [
        name,
        {
          ...{ relative, upper: size > 0 ? limit + rounding : limit, confidence: 0.99 },
          ...{
            standard_error: size > 0 ? of((part) => part.standardError) : 0,
            rows_sampled: rows,
          },
        } as const,
      ];
    }),
  );
}

/** All draws of one key/value head: their differences, and the norm of the sum of them. */
function addHeadGroup(
  problem: AttentionProblem,
  headGroup: HeadGroup,
  draws: readonly Draw[],
  kernel: KernelRows,
  errors: DrawnErrors,
  passes: InputPasses,
): void {
  const { dims, scaling: beta } = problem;
  const ofHeadGroup = draws.map(({ partition, row }) => ({
    batchItem: 0,
    head: partition.head,
    shared: 0,
    row,
  }));
  const exact = exactRows(problemOf(problem, headGroup), ofHeadGroup, passes);
  const rows = new Map<number, Float64Array>();
  const sinks = new Map<number, Float64Array>();
  const [dK, dV]: [OuterProduct[], OuterProduct[]] = [[], []];
  const book = (name: Name, square: number) => {
    errors[name].squares += square;
    errors[name].largest = Math.max(errors[name].largest, Math.sqrt(square));
  };
  draws.forEach(({ partition, row, probability }, k) => {
    passes.checkpoint();
    const of = (x: Float64Array) => slice(x, k, x.length / draws.length);
    const place = partition.head * dims.queryLength + row;
    const rights = of(kernel.rights);
    const ofQuery = of(exact.dSK).map((x, c) => (beta * (x - rights[c]!)) / probability);
    book('query', addTo(rows, place, ofQuery));
    const ofSink = (exact.sink[k]! - kernel.sink[k]!) / probability;
    book('sinks', addTo(sinks, partition.head, Float64Array.of(ofSink)));
    const ofKey = { exact: of(exact.dS), used: of(kernel.dS), left: of(exact.q) };
    book('key', addOuter(dK, ofKey, of(kernel.ws), beta / probability));
    const ofValue = { exact: of(exact.P), used: of(kernel.P), left: of(exact.g) };
    book('value', addOuter(dV, ofValue, of(kernel.wv), 1 / probability));
  });
  for (const sum of rows.values()) errors.query.square += dot(sum, sum);
  for (const sum of sinks.values()) errors.sinks.square += dot(sum, sum);
  errors.key.square += squareOfSum(dK, passes.checkpoint);
  errors.value.square += squareOfSum(dV, passes.checkpoint);
}

/** The problem of one key/value head of one item, whose keys lie together, and of all queries of the item. */
function problemOf(
  problem: AttentionProblem,
  { batchItem, sharedHead }: HeadGroup,
): AttentionProblem {
  const { known: _, projectedFrom: __, ...rest } = problem;
  const { dims, inputs, projections, ...item } = takePart(rest, {
    items: { first: batchItem, last: batchItem + 1 },
    sharedHeads: { first: 0, last: problem.dims.keyValueHeads },
    rows: { first: 0, last: problem.dims.queryLength },
  });
  const { k_proj, v_proj } = projections;
  const one = (width: number) => ({ inFeatures: width, outFeatures: width });
  return {
    ...item,
    dims: { ...dims, keyValueHeads: 1 },
    inputs: {
      query: inputs.query,
      key: headOf(inputs.key, sharedHead, dims.headDim),
      value: headOf(inputs.value, sharedHead, dims.valueDim),
    },
    projections: {
      ...projections,
      k_proj: { ...k_proj, ...one(dims.headDim) },
      v_proj: { ...v_proj, ...one(dims.valueDim) },
    },
  };
}

/** A copy of one head of a tensor (1, L, heads, width). */
function headOf({ dtype, shape, data }: Tensor, head: number, width: number): Tensor {
  const length = shape[1]!;
  const copy = new (data instanceof Float64Array ? Float64Array : Float32Array)(length * width);
  const pitch = data.length / length;
  for (let i = 0, to = 0; i < length; i++) {
    for (let c = 0, at = i * pitch + head * width; c < width; c++) copy[to++] = data[at + c]!;
  }
  return { dtype, shape: [1, length, width], data: copy };
}

/** Adds x to the sum of its place. @returns |x|^2 */
function addTo(sums: Map<number, Float64Array>, place: number, x: Float64Array): number {
  const sum = sums.get(place) ?? new Float64Array(x.length);
  for (let c = 0; c < x.length; c++) sum[c]! += x[c]!;
  sums.set(place, sum);
  return dot(x, x);
}

/** keys (Lk) times left (width), transposed: a matrix of the size of a gradient, which is never formed. */
interface OuterProduct {
  readonly keys: Float64Array;
  readonly left: Float64Array;
}

/**
 * Adds D = scale (exact left^T - used usedLeft^T) to a sum, as two products without cancellation.
 *
 * @returns |D|^2
 */
function addOuter(
  sum: OuterProduct[],
  { exact, used, left }: Readonly<Record<'exact' | 'used' | 'left', Float64Array>>,
  usedLeft: Float64Array,
  scale: number,
): number {
  const products = [
    { keys: exact.map((x, j) => scale * (x - used[j]!)), left },
    { keys: used.map((x) => scale * x), left: left.map((x, c) => x - usedLeft[c]!) },
  ];
  sum.push(...products);
  return squareOfSum(products);
}

/** |sum of products|^2 from inner products of their factors; rounding may not make it less than nothing. */
function squareOfSum(products: readonly OuterProduct[], checkpoint?: () => void): number {
  let square = 0;
  products.forEach((a, k) => {
    checkpoint?.();
    square += dot(a.keys, a.keys) * dot(a.left, a.left);
    for (const b of products.slice(0, k)) square += 2 * dot(a.keys, b.keys) * dot(a.left, b.left);
  });
  return Math.max(0, square);
}

function dot(x: Float64Array, y: Float64Array): number {
  let even = 0;
  let odd = 0;
  let k = 0;
  for (; k + 1 < x.length; k += 2) {
    even += x[k]! * y[k]!;
    odd += x[k + 1]! * y[k + 1]!;
  }
  return k < x.length ? even + odd + x[k]! * y[k]! : even + odd;
}
