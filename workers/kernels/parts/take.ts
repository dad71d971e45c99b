/** The part of a problem that a cut describes, as a problem of the same form. */
import { type Job, stage } from '../../job.js';
import {
  keyRanges,
  keysOf,
  keysOfRows,
  type Mask,
  packedSequences,
  type Range,
  sequenceEnds,
} from '../../mask.js';
import {
  type AttentionLayer,
  type AttentionProblem,
  hasAttentionStates,
  type ProjectedFrom,
  type Projection,
  type Rotary,
} from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import { elementCount, type Tensor, type TensorData } from '../../tensor/tensor.js';
import { type Addition, type BlocksTask, blocksTask, runBlocks } from './blocks.js';
import type { Cut } from './cut.js';

type Layer = AttentionLayer & Partial<AttentionProblem>;

/** Between the seeds of two parts, which count on from theirs. */
const SEEDS = 1_000_003;

/** A part draws for itself. */
export const seedOf = (seed: number, part: number): number => seed + SEEDS * part;

const size = ({ first, last }: Range): number => last - first;

/** Keys that the rows of a cut see, and perhaps others between them; one where they see none. */
function keysOfCut(problem: Layer, { items, rows }: Cut): Range {
  const { queryLength, keyLength } = problem.dims;
  if (size(rows) === queryLength) return { first: 0, last: keyLength };
  const { first, last } = keysOfRows(problem, items.first, rows);
  return last > first ? { first, last } : { first: 0, last: 1 };
}

/** Share of a cut in the pairs of rows and heads of a problem. */
export function shareOf({ dims }: Layer, { items, sharedHeads, rows }: Cut): number {
  const { batch, keyValueHeads, queryLength } = dims;
  return (size(items) * size(sharedHeads) * size(rows)) / (batch * keyValueHeads * queryLength);
}

/** Entries of the heads of a cut, from a list with one for every query head of every batch item. */
export function ofHeads<T>({ dims }: Layer, { items, sharedHeads }: Cut, all: readonly T[]): T[] {
  const group = dims.heads / dims.keyValueHeads;
  return Array.from({ length: size(items) }, (_, k) => (items.first + k) * dims.heads).flatMap(
    (first) => all.slice(first + sharedHeads.first * group, first + sharedHeads.last * group),
  );
}

/** @param memory for the copies, of who knows when nobody looks at them any more. */
export function* takeParts<L extends Layer>(
  problem: L,
  cuts: readonly Cut[],
  memory = new Lease(),
): Job<readonly L[], BlocksTask> {
  return cuts.length === 1 ? [problem] : yield* copyParts(problem, cuts, memory);
}

/** The same where one cut may be less than the whole. */
function* copyParts<L extends Layer>(
  problem: L,
  cuts: readonly Cut[],
  memory: Lease,
): Job<readonly L[], BlocksTask> {
  const copies: Addition[] = [];
  const parts = cuts.map((cut) => partOf(problem, cut, copies, memory));
  yield* stage(
    'take',
    copies.map((copy) => blocksTask([copy])),
  );
  return parts;
}

/** One part, copied here and now: for a task that needs no more of a problem. */
export function takePart<L extends Layer>(problem: L, cut: Cut): L {
  const copies: Addition[] = [];
  const part = partOf(problem, cut, copies, new Lease());
  runBlocks(blocksTask(copies), () => false);
  return part;
}

/** @param copies gets what has to be done before the problem can be used. */
function partOf<L extends Layer>(problem: L, cut: Cut, copies: Addition[], memory: Lease): L {
  const { dims, inputs, objective, known, projectedFrom, projections, rotary, sinks } = problem;
  const { items, sharedHeads, rows } = cut;
  const group = dims.heads / dims.keyValueHeads;
  const heads = { first: sharedHeads.first * group, last: sharedHeads.last * group };
  const keys = keysOfCut(problem, cut);
  const columns = (of: Range, width: number) => ({
    first: of.first * width,
    last: of.last * width,
  });
  /** Items, rows and columns of a tensor (B, L, width); copied where its rows do not lie together. */
  const take = (tensor: Tensor, tokens: Range, wanted: Range): Tensor =>
    taken(tensor, items, tokens, wanted, copies, memory);
  const states = hasAttentionStates(problem);
  const all = (tensor: Tensor): Range => ({ first: 0, last: widthOf(tensor) });
  const input = (tensor: Tensor, tokens: Range, of: Range, width: number) =>
    take(tensor, tokens, states ? columns(of, width) : all(tensor));
  const query = input(inputs.query, rows, heads, dims.headDim);
  const sameKeys =
    inputs.key === inputs.query && keys.first === rows.first && keys.last === rows.last;
  const key = sameKeys && !states ? query : input(inputs.key, keys, sharedHeads, dims.headDim);
  const value =
    inputs.value === inputs.key && !states
      ? key
      : input(inputs.value, keys, sharedHeads, dims.valueDim);
  const values = columns(heads, dims.valueDim);
  return {
    ...problem,
    dims: {
      ...dims,
      batch: size(items),
      queryLength: size(rows),
      keyLength: size(keys),
      heads: size(heads),
      keyValueHeads: size(sharedHeads),
    },
    mask: maskOf(problem, cut, keys),
    inputs: { query, key, value },
    projections: {
      q_proj: outputsOf(projections.q_proj, heads, dims.headDim),
      k_proj: outputsOf(projections.k_proj, sharedHeads, dims.headDim),
      v_proj: outputsOf(projections.v_proj, sharedHeads, dims.valueDim),
    },
    ...(rotary && { rotary: tablesOf(rotary, items) }),
    ...(projectedFrom && { projectedFrom: sourcesOf(projectedFrom, items) }),
    ...(sinks && { sinks: slices(sinks, heads) }),
    ...(objective && {
      objective: { ...objective, tensor: take(objective.tensor, rows, values) },
    }),
    ...(known && {
      known: {
        ...(known.logSumExp && { logSumExp: headsOf(known.logSumExp, items, heads) }),
        ...(known.output && { output: take(known.output, rows, values) }),
      },
    }),
  };
}

/** Numbers of a token, in all its heads. */
const widthOf = ({ shape }: Tensor): number => elementCount(shape.slice(2));

function memoryLike(data: TensorData, length: number, memory: Lease): TensorData {
  return data instanceof Float64Array ? memory.float64(length) : memory.float32(length);
}

function taken(
  tensor: Tensor,
  items: Range,
  tokens: Range,
  columns: Range,
  copies: Addition[],
  memory: Lease,
): Tensor {
  const { dtype, shape, data } = tensor;
  const [, length] = shape as [number, number];
  const width = widthOf(tensor);
  const [n, w] = [size(tokens), size(columns)];
  const at = (items.first * length + tokens.first) * width + columns.first;
  const wanted = [size(items), n, w];
  if (w === width) {
    // Rows are cut from one item alone, so that they lie together.
    return { dtype, shape: wanted, data: data.subarray(at, at + size(items) * n * width) };
  }
  // Heads are cut from one item alone.
  const copy = memoryLike(data, n * w, memory);
  copies.push({
    to: { data: copy, at: 0, pitch: w },
    from: { data, at, pitch: width },
    rows: n,
    columns: w,
    copies: true,
  });
  return { dtype, shape: wanted, data: copy };
}

/** Rows of a matrix (or elements of a vector), which lie together. */
function slices({ dtype, shape, data }: Tensor, { first, last }: Range): Tensor {
  const each = elementCount(shape.slice(1));
  const rows = data.subarray(first * each, last * each);
  return { dtype, shape: [last - first, ...shape.slice(1)], data: rows };
}

/** (B, H, L): the heads of one item, or all heads of several. */
function headsOf({ dtype, shape, data }: Tensor, items: Range, heads: Range): Tensor {
  const [, H, L] = shape as [number, number, number];
  const first = (items.first * H + heads.first) * L;
  const length = size(items) * size(heads) * L;
  return {
    dtype,
    shape: [size(items), size(heads), L],
    data: data.subarray(first, first + length),
  };
}

/** The projection to some of its heads. */
function outputsOf(projection: Projection, heads: Range, width: number): Projection {
  const { weight, bias, adapter } = projection;
  const outputs = { first: heads.first * width, last: heads.last * width };
  return {
    ...projection,
    outFeatures: size(outputs),
    inFeatures: weight ? projection.inFeatures : size(outputs),
    weight: weight && slices(weight, outputs),
    bias: bias && slices(bias, outputs),
    adapter: adapter && { ...adapter, B: slices(adapter.B, outputs) },
  };
}

function tablesOf({ cos, sin }: Rotary, items: Range): Rotary {
  const of = (table: Tensor) => (table.shape[0] === 1 ? table : slices(table, items));
  return { cos: of(cos), sin: of(sin) };
}

/** All heads were projected from the same rows, which are never cut apart. */
function sourcesOf({ query, key, value, rotary }: ProjectedFrom, items: Range): ProjectedFrom {
  return {
    ...(query && { query: slices(query, items) }),
    ...(key && { key: slices(key, items) }),
    ...(value && { value: slices(value, items) }),
    ...(rotary && { rotary: tablesOf(rotary, items) }),
  };
}

/** Positions count from the first key that the part has. */
function maskOf(problem: Layer, { items, rows }: Cut, keys: Range): Mask {
  const { mask } = problem;
  const shifted = (position: number) =>
    Math.min(Math.max(0, position - keys.first), keys.last - keys.first);
  const padded = mask.keys && {
    keys: keyRanges(
      Array.from({ length: size(items) }, (_, k) => {
        const { first, last } = keysOf(problem, items.first + k);
        return { first: shifted(first), last: shifted(last) };
      }),
    ),
  };
  const { sequences } = mask;
  const packed = sequences && {
    sequences: packedSequences(
      Array.from({ length: sequences.lists.length === 2 ? 1 : size(items) }, (_, k) =>
        sequenceEnds(sequences, items.first + k)
          .map((end) => end - keys.first)
          .filter((end) => end > 0),
      ),
    ),
  };
  return { ...mask, ...padded, ...packed, offset: (mask.offset ?? 0) + rows.first - keys.first };
}
