/** The attention stage where it is one call: what `attend` of inner/stages.ts is handed. */
import { CancelledError, type Checkpoint } from '../../job.js';
import { keysOf, keysOfRow, keysOfRows, seesAll } from '../../mask.js';
import type { Contradiction } from '../../problem.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { ATTENTION, wordsOfAttention } from '../inner/operations/stages.js';
import type { AttentionMemory } from './memory.js';
import type { ExactPlan } from './plan.js';
import { outputRows, sinkOf } from './rows.js';
import type { PartitionOfHead, Partitions } from './task.js';

/** E and E (dP - G.O) of picked rows: (rows, keys). */
interface KeptRows {
  readonly picked: readonly number[];
  readonly e: Float64Array;
  readonly t: Float64Array;
}

interface BlockRange {
  /** Row blocks first, first + step, ... below last. */
  readonly first: number;
  readonly last: number;
  readonly step: number;
}

type Numbers = Float32Array | Float64Array | Int32Array;

const CONTRADICTIONS = [null, 'log_sum_exp', 'attention_output'] as const;

interface Report {
  readonly loss: number;
  readonly contradiction: Contradiction | null;
}

/**
 * @param kept of rows that are looked at once more: nothing is added to the sums.
 * @throws {CancelledError}
 */
export function attendInOneCall(
  task: Partitions,
  wasm: Wasm,
  memory: AttentionMemory,
  partition: PartitionOfHead,
  blocks: BlockRange,
  kept: KeptRows | null,
  checkpoint: Checkpoint,
): Report {
  const mark = wasm.mark();
  const report = new AttendCall(task, wasm, memory, partition, kept, checkpoint).run(blocks);
  wasm.release(mark);
  return report;
}

/** Arguments that the blocks of a partition have in common, written once. */
export class AttendCall {
  readonly #wasm: Wasm;
  readonly #plan: ExactPlan;
  readonly #partition: PartitionOfHead;
  readonly #picked: readonly number[] | undefined;
  readonly #keys: number;
  readonly #words: number;
  readonly #loss: number;
  readonly #contradiction: number;

  /** Allocates. @param kept as of `attendInOneCall`. */
  constructor(
    task: Partitions,
    wasm: Wasm,
    memory: AttentionMemory,
    partition: PartitionOfHead,
    kept: KeptRows | null,
    checkpoint: Checkpoint,
  ) {
    this.#wasm = wasm;
    this.#plan = task.plan;
    this.#partition = partition;
    this.#picked = kept?.picked;
    this.#loss = wasm.alloc(8);
    this.#contradiction = wasm.alloc(8);
    const [loss, contradiction] = [this.#loss, this.#contradiction];
    const words = wordsOf(task, wasm, memory, partition, kept, checkpoint, { loss, contradiction });
    this.#keys = words[KEYS]!;
    this.#words = wasm.alloc(8 * words.length);
    wasm.f64(this.#words, words.length).set(words);
  }

  /**
   * @param listed in memory are so many keys of a list, and no others: for a single block.
   * @throws {CancelledError}
   */
  run(blocks: BlockRange, listed?: number): Report {
    const wasm = this.#wasm;
    const [plan, { headGroup, head }] = [this.#plan, this.#partition];
    const mark = wasm.mark();
    const seen =
      listed === undefined
        ? seenByBlocks(plan, this.#partition, blocks, this.#picked)
        : [0, listed, 0];
    // Indexed by block; entries before the first are not read.
    const before = this.#picked ? 0 : 3 * blocks.first;
    const at = wasm.alloc(4 * (before + seen.length));
    wasm.i32(at + 4 * before, seen.length).set(seen);
    const words = wasm.f64(this.#words, ATTENTION.length);
    words[SEEN] = at;
    words[KEYS] = listed ?? this.#keys;
    wasm.f64(this.#loss, 1)[0] = 0;
    wasm.i32(this.#contradiction, 2).fill(0);
    const stopped = wasm.fn.attend!(this.#words, blocks.first, blocks.last, blocks.step);
    if (stopped) throw new CancelledError();
    wasm.release(mark);
    const [kind, row] = wasm.i32(this.#contradiction, 2);
    const name = CONTRADICTIONS[kind!]!;
    return {
      loss: wasm.f64(this.#loss, 1)[0]!,
      contradiction: kind ? { name, batchItem: headGroup.batchItem, head, row: row! } : null,
    };
  }
}

const [SEEN, KEYS] = [ATTENTION.indexOf('seen'), ATTENTION.indexOf('keys')];

/** @param reports where what blocks report is left. */
function wordsOf(
  task: Partitions,
  wasm: Wasm,
  memory: AttentionMemory,
  partition: PartitionOfHead,
  kept: KeptRows | null,
  checkpoint: Checkpoint,
  reports: { readonly loss: number; readonly contradiction: number },
): number[] {
  const { plan, workspace } = task;
  const { problem, thin, full } = plan;
  const { dims, objective, known, softcap = 0, scaling } = problem;
  const { queryLength, heads, headDim: d } = dims;
  const { batchItem } = partition.headGroup;
  const number = partition.place * plan.partitions + partition.partition;
  const headGroup = Math.floor(partition.place / plan.group);
  const { corner, pitch } = outputRows(task, partition);
  const { fields } = memory;
  const integers = (x: ArrayLike<number>) => {
    const at = wasm.alloc(4 * x.length);
    wasm.i32(at, x.length).set(x);
    return at;
  };
  const place = (x: Numbers | undefined, index = 0) => (x ? wasm.elementAt(x, index)! : 0);
  const ofHead = (x: Numbers, width: number) => place(x, partition.place * queryLength * width);
  // The matrix of a client, in float32 or in float64.
  const narrow = (x: unknown, index: number) => (x instanceof Float32Array ? place(x, index) : 0);
  const wide = (x: unknown, index: number) => (x instanceof Float64Array ? place(x, index) : 0);
  const upstream = objective?.tensor.data;
  const [sums, output] = [known?.logSumExp?.data, known?.output?.data];
  const firstSum = (batchItem * heads + partition.head) * queryLength;
  const { words } = checkpoint;
  // One call for each partition of a head: objects that are put together from others would take as long as a tile.
  // biome-ignore format: one line a group
  const values = {
    rows: kept?.picked.length ?? queryLength,
    keys: kept ? kept.e.length / kept.picked.length : keysOf(problem, batchItem).last,
    window: plan.window, rq: thin.rq, rk: thin.rk, rvRank: thin.rv, right: thin.right,
    fullDk: Number(full.dK), fullDv: Number(full.dV), isTarget: Number(objective?.kind === 'target'), pitch,
    scale: scaling * Math.LOG2E, sink: sinkOf(plan, partition), cap: softcap * Math.LOG2E,
    q: ofHead(workspace.Q, d), lowQ: place(workspace.lowQ, headGroup * queryLength * thin.rq),
    seen: 0, picked: kept ? integers(kept.picked) : 0, bk: memory.BK, bv: memory.BV,
    upstream: narrow(upstream, corner), upstreamWide: wide(upstream, corner),
    knownSum: narrow(sums, firstSum), knownSumWide: wide(sums, firstSum),
    knownOutput: narrow(output, corner), knownOutputWide: wide(output, corner),
    stop: place(words?.stop), beat: place(words?.beat),
    ls: kept ? 0 : fields.ls, lv: kept ? 0 : fields.lv,
    outK: place(workspace.outK, number * d * thin.rk), outV: place(workspace.outV, number * dims.valueDim * thin.rv),
    sinkGradient: place(workspace.sinks, number), ...reports,
    output: place(task.attentionOutput ?? undefined, corner), rightQ: ofHead(workspace.rightQ, thin.right),
    normG: ofHead(workspace.normG, 1), normS: ofHead(workspace.normS, 1), normQs: ofHead(workspace.normQS, 1),
    normDq: ofHead(workspace.normDQ, 1), normSink: ofHead(workspace.normSink, 1),
    keptE: place(kept?.e), keptT: kept?.t.length ? place(kept.t) : 0,
    qPacked: fields.q, gPacked: fields.g, qRows: memory.qRows, gRows: memory.gRows,
    rightS: memory.rightS, rightV: memory.rightV, contracted: memory.contracted,
  };
  return wordsOfAttention(values, fields);
}

/** For each row block from the first on: the first key that it sees, the key after the last, and whether some row sees only one. */
function seenByBlocks(
  { problem }: ExactPlan,
  { headGroup: { batchItem } }: PartitionOfHead,
  { first, last, step }: BlockRange,
  picked: readonly number[] | undefined,
): Int32Array {
  // A task may have no block of a partition: blocks are seldom a multiple of partitions.
  const seen = new Int32Array(3 * (picked ? 1 : Math.max(0, last - first)));
  const of = (start: number, n: number) => {
    const end = Math.min(start + n, problem.dims.queryLength);
    const keys = keysOfRows(problem, batchItem, { first: start, last: end });
    return [keys.first, keys.last, Number(hasRowOfOneKey(problem, batchItem, start))];
  };
  const everywhere = seesAll(problem) ? of(0, 1) : null;
  for (let block = first; block < last; block += step) {
    const [start, n] = picked ? [picked[0]!, picked.length] : [block * ROWS, ROWS];
    seen.set(everywhere ?? of(start, n), 3 * (block - first));
  }
  return seen;
}

/** Whether a row has one key only, in the block of the head that row `first` is in. */
export function hasRowOfOneKey(
  problem: ExactPlan['problem'],
  batchItem: number,
  first: number,
): boolean {
  const start = first - (first % ROWS);
  const end = seesAll(problem) ? start + 1 : Math.min(start + ROWS, problem.dims.queryLength);
  for (let row = start; row < end; row++) {
    const keys = keysOfRow(problem, batchItem, row);
    if (keys.last - keys.first === 1) return true;
  }
  return false;
}
