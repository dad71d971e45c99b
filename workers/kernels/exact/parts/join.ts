/** The sums of all parts become those of the whole: they add up, or stand beside each other. */
import { type Job, stage } from '../../../job.js';
import type { Range } from '../../../mask.js';
import {
  type AttentionProblem,
  type Contradiction,
  type ProjectionName,
  STATES,
  type StatesName,
} from '../../../problem.js';
import type { TensorData } from '../../../tensor/tensor.js';
import { type ErrorSums, makeErrorSums } from '../../estimate/estimate.js';
import { type ComposedNorms, largestNorms, ZERO_NORMS } from '../../norms.js';
import {
  allocateGradients,
  allocateInputGradients,
  type GradientOutputs,
  sharedFloat32,
} from '../../result.js';
import { type Samples, tensorsOf } from '../error/estimate.js';
import type { ExactSums } from '../sums.js';
import { type Addition, type BlocksTask, blocksTask } from './blocks.js';
import type { Cut } from './cut.js';

interface Result {
  readonly cut: Cut;
  /** Query heads. */
  readonly heads: Range;
  readonly sums: ExactSums;
}

export function* joinParts(
  problem: AttentionProblem,
  options: GradientOutputs,
  cuts: readonly Cut[],
  parts: readonly ExactSums[],
): Job<ExactSums, BlocksTask> {
  if (parts.length === 1) return parts[0]!;
  const group = problem.dims.heads / problem.dims.keyValueHeads;
  const results = parts.map((sums, k): Result => {
    const { first, last } = cuts[k]!.sharedHeads;
    return { cut: cuts[k]!, heads: { first: first * group, last: last * group }, sums };
  });
  /** Of one tensor each, in the order of the parts. */
  const tasks: BlocksTask[] = [];
  const outputs = joinOutputs(problem, options, results, tasks);
  const { sums, ...totals } = joinParameters(problem, results, tasks);
  yield* stage('join', tasks);
  const samples = joinSamples(parts, sums);
  return {
    ...totals,
    ...outputs,
    loss: parts.reduce((sum, { loss }) => sum + loss, 0),
    headNorms: joinNorms(problem, results),
    contradiction: firstContradiction(results),
    samples: {
      ...samples,
      squares: {
        ...samples.squares,
        ...(totals.sinks && { sinks: totals.sinks.reduce((sum, x) => sum + x * x, 0) }),
      },
    },
  };
}

/** Gradients of adapters and sinks, and the errors of their samples. */
function joinParameters(
  problem: AttentionProblem,
  results: readonly Result[],
  tasks: BlocksTask[],
): Pick<ExactSums, 'gradients' | 'sinks'> & Pick<Samples, 'sums'> {
  const totals = allocateGradients(problem);
  const sampled = results.every(({ sums }) => sums.samples.sums.length > 0);
  const errors: Record<string, ErrorSums> = {};
  for (const [name, total] of tensorsOf(totals)) {
    const place = (result: Result) => firstElement(problem, name, result);
    tasks.push(blocksTask(results.map((one) => run(total, place(one), tensorOf(one.sums, name)))));
    if (!sampled) continue;
    const error = makeErrorSums(total.length);
    errors[name] = error;
    tasks.push(
      blocksTask(
        results.map((one) => run(error.error, place(one), one.sums.samples.sums[0]![name]!.error)),
      ),
    );
    for (const { sums } of results) {
      const { totals: more } = sums.samples.sums[0]![name]!;
      for (let k = 0; k < 3; k++) error.totals[k]! += more[k]!;
      error.totals[3] = Math.max(error.totals[3]!, more[3]!);
    }
  }
  return { ...totals, sums: sampled ? [errors] : [] };
}

const tensorOf = (sums: ExactSums, name: string): TensorData =>
  tensorsOf(sums).find(([other]) => other === name)![1];

/** to += from, from element `at` on. */
function run(to: TensorData, at: number, from: TensorData): Addition {
  const pitch = from.length;
  return {
    to: { data: to, at, pitch },
    from: { data: from, at: 0, pitch },
    rows: 1,
    columns: pitch,
  };
}

/** Where a part's gradient begins in that of the whole: lora_A is that of all heads, lora_B and sinks go by heads. */
function firstElement(
  { projections, dims }: AttentionProblem,
  name: string,
  { heads, cut }: Result,
): number {
  if (name === 'sinks') return heads.first;
  const [projection, tensor] = name.split('.') as [ProjectionName, string];
  if (tensor === 'lora_A') return 0;
  const first = projection === 'q_proj' ? heads.first : cut.sharedHeads.first;
  const width = projection === 'v_proj' ? dims.valueDim : dims.headDim;
  return first * width * projections[projection].adapter!.rank;
}

/** What has a row for each token. */
function joinOutputs(
  problem: AttentionProblem,
  options: GradientOutputs,
  results: readonly Result[],
  tasks: BlocksTask[],
): Pick<ExactSums, 'attentionOutput' | 'inputGradients'> {
  const { batch, queryLength, keyLength, heads, keyValueHeads, valueDim } = problem.dims;
  const attentionOutput = options.attentionOutput
    ? sharedFloat32(batch * queryLength * heads * valueDim)
    : null;
  const queries = { length: queryLength, heads };
  const keys = { length: keyLength, heads: keyValueHeads };
  const ofQueries = ({ cut, heads }: Result): Place => ({ ...cut, heads });
  const ofKeys = ({ cut }: Result): Place => ({
    ...{ items: cut.items, heads: cut.sharedHeads },
    rows: { first: 0, last: keyLength },
  });
  if (attentionOutput) {
    const rows = results.map((one) =>
      beside(attentionOutput, queries, one.sums.attentionOutput!, ofQueries(one)),
    );
    tasks.push(blocksTask(rows));
  }
  const kind = options.inputGradients;
  const inputGradients = allocateInputGradients(problem, kind, sharedFloat32);
  for (const [name, to] of Object.entries(inputGradients ?? {}) as [StatesName, Float32Array][]) {
    const isQuery = kind !== undefined && STATES[kind].query === name;
    const additions = results.map((one) =>
      beside(
        to,
        isQuery ? queries : keys,
        one.sums.inputGradients![name]!,
        isQuery ? ofQueries(one) : ofKeys(one),
      ),
    );
    tasks.push(blocksTask(additions));
  }
  return { attentionOutput, inputGradients };
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
  };
}

function joinNorms({ dims }: AttentionProblem, results: readonly Result[]): ComposedNorms[] {
  const norms = Array.from({ length: dims.batch * dims.heads }, () => ZERO_NORMS);
  for (const { cut, heads, sums } of results) {
    sums.headNorms.forEach((found, k) => {
      const count = heads.last - heads.first;
      const item = cut.items.first + Math.floor(k / count);
      const place = item * dims.heads + heads.first + (k % count);
      norms[place] = largestNorms(norms[place]!, found);
    });
  }
  return norms;
}

function firstContradiction(results: readonly Result[]): Contradiction | null {
  const found = results.find(({ sums }) => sums.contradiction);
  if (!found) return null;
  const { cut, heads, sums } = found;
  const { name, batchItem, head, row } = sums.contradiction!;
  return {
    name,
    batchItem: cut.items.first + batchItem,
    head: heads.first + head,
    row: cut.rows.first + row,
  };
}

function joinSamples(parts: readonly ExactSums[], sums: Samples['sums']): Samples {
  const squares: { -readonly [Name in keyof Samples['squares']]: number } = {};
  for (const { samples } of parts) {
    for (const name of Object.keys(samples.squares) as (keyof typeof squares)[]) {
      squares[name] = (squares[name] ?? 0) + samples.squares[name]!;
    }
  }
  return {
    sums,
    sizes: parts.flatMap(({ samples }) => samples.sizes),
    states: parts.flatMap(({ samples }) => samples.states),
    squares,
    rounding: Math.max(...parts.map(({ samples }) => samples.rounding)),
  };
}
