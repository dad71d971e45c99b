/** What all parts answer becomes the answer of the whole: sums add up, or stand beside each other. */
import { type Job, stage } from '../../job.js';
import type { Range } from '../../mask.js';
import {
  type AttentionLayer,
  type AttentionProblem,
  type ProjectionName,
  STATES,
  type StatesName,
} from '../../problem.js';
import type { TensorData } from '../../tensor/tensor.js';
import { type ComposedNorms, largestNorms, ZERO_NORMS } from '../norms.js';
import {
  allocateGradients,
  allocateInputGradients,
  type ForwardResult,
  type GradientOutputs,
  type GradientResult,
  type HeadNorms,
  type ParameterGradients,
  tensorsOf,
} from '../result.js';
import { type Addition, type BlocksTask, blocksTask } from './blocks.js';
import type { Cut } from './cut.js';

/** What a part answers, and where it stands in the whole. */
export interface Placed<Result> {
  readonly cut: Cut;
  /** Query heads. */
  readonly heads: Range;
  readonly result: Result;
}

export function placed<Result>(
  { dims }: AttentionLayer,
  cuts: readonly Cut[],
  results: readonly Result[],
): Placed<Result>[] {
  const group = dims.heads / dims.keyValueHeads;
  return results.map((result, k) => {
    const { first, last } = cuts[k]!.sharedHeads;
    return { cut: cuts[k]!, heads: { first: first * group, last: last * group }, result };
  });
}

/** @param allocate memory for what has a row for each token. */
export function* joinGradients<Data extends Float32Array | Float64Array>(
  problem: AttentionProblem,
  outputs: GradientOutputs,
  parts: readonly Placed<GradientResult>[],
  allocate: (length: number) => Data,
): Job<
  GradientResult & {
    readonly loss: number;
    readonly attentionOutput: Data | null;
    readonly inputGradients: Partial<Record<StatesName, Data>> | null;
  },
  BlocksTask
> {
  const totals = allocateGradients(problem);
  const tasks = tensorsOf(totals).map(([name, total]) =>
    joinTensor(problem, name, total, parts, (part) => tensorOf(part, name)),
  );
  const attentionOutput = outputs.attentionOutput
    ? joinOutput(problem, parts as readonly Placed<WithOutput>[], allocate, tasks)
    : null;
  const inputGradients = joinInputGradients(problem, outputs, parts, allocate, tasks);
  yield* stage('join', tasks);
  return {
    ...totals,
    attentionOutput,
    inputGradients,
    loss: parts.reduce((sum, { result }) => sum + (result.loss ?? 0), 0),
    headNorms: joinNorms(problem, parts),
  };
}

const tensorOf = (totals: ParameterGradients, name: string): TensorData =>
  tensorsOf(totals).find(([other]) => other === name)![1];

/** One of the gradients of adapters and sinks, or what has its shape. */
export function joinTensor<Result>(
  problem: AttentionProblem,
  name: string,
  total: TensorData,
  parts: readonly Placed<Result>[],
  of: (result: Result) => TensorData,
): BlocksTask {
  return blocksTask(
    parts.map((part): Addition => {
      const [at, data] = [firstElement(problem, name, part), of(part.result)];
      const pitch = data.length;
      return {
        to: { data: total, at, pitch },
        from: { data, at: 0, pitch },
        rows: 1,
        columns: pitch,
      };
    }),
  );
}

/** Where a part's gradient begins in that of the whole: lora_A is that of all heads, lora_B and sinks go by heads. */
function firstElement(
  { projections, dims }: AttentionProblem,
  name: string,
  { heads, cut }: Placed<unknown>,
): number {
  if (name === 'sinks') return heads.first;
  const [projection, tensor] = name.split('.') as [ProjectionName, string];
  if (tensor === 'lora_A') return 0;
  const first = projection === 'q_proj' ? heads.first : cut.sharedHeads.first;
  const width = projection === 'v_proj' ? dims.valueDim : dims.headDim;
  return first * width * projections[projection].adapter!.rank;
}

interface WithOutput {
  readonly attentionOutput: TensorData;
}

/** @param allocate memory for the output. */
export function* joinForward<Data extends Float32Array | Float64Array>(
  layer: AttentionLayer,
  parts: readonly Placed<ForwardResult>[],
  allocate: (length: number) => Data,
): Job<ForwardResult & { readonly attentionOutput: Data }, BlocksTask> {
  const tasks: BlocksTask[] = [];
  const attentionOutput = joinOutput(layer, parts, allocate, tasks);
  yield* stage('join', tasks);
  return { attentionOutput, headNorms: joinNorms(layer, parts) };
}

/** @param tasks gets what has to be done before the output is there. */
function joinOutput<Data extends Float32Array | Float64Array>(
  { dims }: AttentionLayer,
  parts: readonly Placed<WithOutput>[],
  allocate: (length: number) => Data,
  tasks: BlocksTask[],
): Data {
  const { batch, queryLength, heads, valueDim } = dims;
  const output = allocate(batch * queryLength * heads * valueDim);
  const all = { length: queryLength, heads };
  tasks.push(
    blocksTask(
      parts.map((part) => beside(output, all, part.result.attentionOutput, ofQueries(part))),
    ),
  );
  return output;
}

const ofQueries = ({ cut, heads }: Placed<unknown>): Place => ({ ...cut, heads });

function joinInputGradients<Data extends Float32Array | Float64Array>(
  problem: AttentionProblem,
  { inputGradients: kind }: GradientOutputs,
  parts: readonly Placed<GradientResult>[],
  allocate: (length: number) => Data,
  tasks: BlocksTask[],
): Partial<Record<StatesName, Data>> | null {
  const { queryLength, keyLength, heads, keyValueHeads } = problem.dims;
  const gradients = allocateInputGradients(problem, kind, allocate);
  for (const [name, to] of Object.entries(gradients ?? {}) as [StatesName, Data][]) {
    const isQuery = kind !== undefined && STATES[kind].query === name;
    const all = isQuery
      ? { length: queryLength, heads }
      : { length: keyLength, heads: keyValueHeads };
    const additions = parts.map((part) => {
      const { cut } = part;
      const rows = { first: 0, last: keyLength };
      const place = isQuery ? ofQueries(part) : { ...cut, heads: cut.sharedHeads, rows };
      return beside(to, all, part.result.inputGradients![name]!, place);
    });
    tasks.push(blocksTask(additions));
  }
  return gradients;
}

interface Place {
  readonly items: Range;
  readonly rows: Range;
  readonly heads: Range;
}

/** What a part has of a tensor (B, length, heads x width): some items, rows of one item, or heads of one item. */
function beside(
  to: TensorData,
  { length, heads: all }: { readonly length: number; readonly heads: number },
  from: TensorData,
  { items, rows, heads }: Place,
): Addition {
  const n = (items.last - items.first) * (rows.last - rows.first);
  const columns = from.length / n;
  const width = columns / (heads.last - heads.first);
  const pitch = width * all;
  const at = (items.first * length + rows.first) * pitch + heads.first * width;
  return {
    to: { data: to, at, pitch },
    from: { data: from, at: 0, pitch: columns },
    rows: n,
    columns,
    copies: true,
  };
}

function joinNorms(
  { dims }: AttentionLayer,
  parts: readonly Placed<{ readonly headNorms: HeadNorms }>[],
): ComposedNorms[] {
  const norms = Array.from({ length: dims.batch * dims.heads }, () => ZERO_NORMS);
  for (const { cut, heads, result } of parts) {
    result.headNorms.forEach((found, k) => {
      const count = heads.last - heads.first;
      const item = cut.items.first + Math.floor(k / count);
      const place = item * dims.heads + heads.first + (k % count);
      norms[place] = largestNorms(norms[place]!, found);
    });
  }
  return norms;
}
