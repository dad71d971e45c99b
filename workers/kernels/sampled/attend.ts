/** The attention stage of sampled gradients: near keys as they are, and drawn ones in place of all far ones. */
import type { Checkpoint } from '../../job.js';
import { keysOfRows, type Masked, type Range } from '../../mask.js';
import type { AttendReport } from '../attention/attend.js';
import { attendByLists, type KeyChoice } from '../attention/by-lists.js';
import type { AttentionMemory } from '../attention/memory.js';
import type { PartitionOfHead, Partitions, RowBlock } from '../attention/task.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { slice } from '../inner/operands.js';
import { wordsOfRows } from '../inner/operations/proxies.js';
import { Random } from '../random.js';
import { type Coordinates, rowsOfHead } from './coordinates.js';
import { KeyDraw, sizeOf } from './draw.js';
import { Measure, type Measurements, makeMeasurements, withoutError } from './error/measure.js';
import type { Tables } from './error/tables.js';
import { Listed } from './listed.js';
import { NEAR, type SampledPlan } from './plan/plan.js';
import { type HeadCoordinates, KeyProxy } from './proxy.js';

/** Where a problem stands in the one that it is a part of, whose blocks have a number each. */
export interface Origin {
  readonly batchItem: number;
  readonly head: number;
  readonly block: number;
  /** Query heads and blocks of the whole. */
  readonly heads: number;
  readonly blocks: number;
}

export interface SampledAttendTask extends Partitions {
  readonly kernel: 'sampled';
  readonly step: 'attend';
  readonly sampled: SampledPlan;
  readonly coordinates: Coordinates;
  readonly tables: Tables;
  readonly seed: number;
  readonly origin: Origin;
  /** (head, block): the probability with which a block was chosen to be measured, or 0. */
  readonly measured: Float32Array;
}

export interface SampledReport extends AttendReport {
  readonly measurements: Measurements;
}

export function runSampledAttend(
  task: SampledAttendTask,
  wasm: Wasm,
  checkpoint: Checkpoint,
): SampledReport {
  const measurements = makeMeasurements(task.origin.heads);
  const report = attendByLists(task, wasm, checkpoint, (memory, partition) =>
    keysOfPartition(task, wasm, memory, partition, checkpoint, measurements),
  );
  return { ...report, measurements };
}

/** Near keys of rows, and the ranges of the others that they see. */
export function splitKeys(problem: Masked, batchItem: number, rows: Range) {
  const seen = keysOfRows(problem, batchItem, rows);
  const held = (key: number) => Math.min(Math.max(key, seen.first), seen.last);
  const offset = problem.mask.offset ?? 0;
  const near = { first: held(offset + rows.first - NEAR), last: held(offset + rows.last + NEAR) };
  const far = [
    { first: seen.first, last: near.first },
    { first: near.last, last: seen.last },
  ].filter(({ first, last }) => first < last);
  return { near, far };
}

/** A generator for each block of a head of a batch item, whatever part it is computed in. */
function randomOf({ origin, seed }: SampledAttendTask, { partition, first }: RowBlock): Random {
  const item = origin.batchItem + partition.headGroup.batchItem;
  const head = item * origin.heads + origin.head + partition.head;
  const block = head * origin.blocks + origin.block + first / ROWS;
  return new Random(new Random(seed).integer(2 ** 32) + 2 ** 32 * (block % 2 ** 21));
}

/** A head of the workspace in c coordinates. Where operations do not reach its keys, they are copied if they are not there yet. */
function coordinatesOf(
  { plan, coordinates }: SampledAttendTask,
  wasm: Wasm,
  { warm }: AttentionMemory,
  place: number,
  c: number,
): HeadCoordinates {
  const { queryLength } = plan.problem.dims;
  const { most, sizes } = coordinates;
  const queries = rowsOfHead(coordinates.queries, place, queryLength, most, c);
  const keys = rowsOfHead(coordinates.keys, place, plan.keys, most, c);
  const reached = wasm.elementAt(keys);
  const at = reached ?? wasm.alloc(keys.byteLength);
  if (reached === null && !warm) wasm.i32(at, keys.length).set(keys);
  const ofHead = slice(sizes, place, queryLength);
  return {
    ...{ c, at },
    queries: ({ first, n }) =>
      queries.subarray(wordsOfRows(first, c), wordsOfRows(first, c) + wordsOfRows(n, c)),
    sizes: ({ first, n }) => ofHead.subarray(first, first + n),
  };
}

function keysOfPartition(
  task: SampledAttendTask,
  wasm: Wasm,
  memory: AttentionMemory,
  partition: PartitionOfHead,
  checkpoint: Checkpoint,
  measurements: Measurements,
): KeyChoice {
  const { plan, sampled, coordinates } = task;
  const head =
    sampled.heads[partition.headGroup.batchItem * plan.problem.dims.heads + partition.head]!;
  if (head.coordinates === 0) return () => null;
  const headGroup = Math.floor(partition.place / plan.group);
  const spread = slice(coordinates.spread, headGroup, plan.keys);
  const proxy = new KeyProxy(
    task,
    wasm,
    memory,
    coordinatesOf(task, wasm, memory, partition.place, head.coordinates),
  );
  // A list of more than half of the keys is no cheaper than all of them.
  const listed = new Listed(wasm, memory, Math.ceil(plan.keys / 2));
  const keyDraw = new KeyDraw(wasm, spread, listed.capacity);
  const measure = new Measure(task, wasm, memory, checkpoint);
  const sink = task.origin.head + partition.head;
  return (rows) => {
    const { first, n } = rows;
    const { batchItem } = partition.headGroup;
    const { near, far } = splitKeys(plan.problem, batchItem, { first, last: first + n });
    if (far.length === 0) return null;
    const worths = keyDraw.weigh(proxy.weigh(rows, near, far), far);
    const drawn = keyDraw.draw(worths, sampled.scale, randomOf(task, rows).uniform());
    const measured = task.measured[partition.place * plan.blocks + rows.first / ROWS]!;
    if (!drawn || sizeOf(near) + drawn.places.length > listed.capacity) {
      if (measured > 0) measurements.blocks.push(withoutError(measured));
      return null;
    }
    measurements.drawn++;
    const keys = listed.gather(near, far, drawn);
    const end = measured > 0 ? measure.begin(rows, measured, measurements) : null;
    // Memory may have moved by then.
    const [index, probability] = [keys.index.slice(), drawn.probability.slice()];
    const after = () => {
      measure.sinks?.addDrawn(rows, keys, probability, sink, measurements.sinks);
      end?.(keys.memory, index, worths);
    };
    return { ...keys, after };
  };
}
