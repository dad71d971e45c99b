/**
 * What the plan knows of a head: some blocks over all their keys, against what proxies of several numbers of
 * coordinates say of these.
 */
import type { Checkpoint, Task } from '../../../job.js';
import { prepareMemory } from '../../attention/memory.js';
import type { PartitionOfHead, Partitions, RowBlock } from '../../attention/task.js';
import { spreadRows } from '../../estimate/rows.js';
import { ROWS } from '../../inner/block.js';
import type { Wasm } from '../../inner/instance.js';
import { slice } from '../../inner/operands.js';
import { wordsOfRows } from '../../inner/operations/proxies.js';
import { splitKeys } from '../attend.js';
import { mapKeys, mapQueries, spreadOf, squaresOfUpstream } from '../coordinates.js';
import { KeyDraw, sizeOf } from '../draw.js';
import { Apart } from '../error/apart.js';
import { Contributions, squareOf } from '../error/contributions.js';
import type { Tables } from '../error/tables.js';
import { KeySquares } from '../key-squares.js';
import { type HeadCoordinates, KeyProxy } from '../proxy.js';
import { basisOf } from './basis.js';
import { type Basis, COORDINATES, looksAt } from './plan.js';
import { makeKeySums, type Name, type RunningSums, runningSums } from './scale.js';

export interface PilotTask extends Task<Pilot>, Pick<Partitions, 'plan' | 'workspace' | 'wave'> {
  readonly kernel: 'sampled';
  readonly step: 'pilot';
  readonly head: Omit<PartitionOfHead, 'partition'>;
  readonly tables: Tables;
  readonly seed: number;
}

/** Sums are those of all blocks of the head, extrapolated. */
export interface Pilot {
  readonly basis: Basis;
  readonly tried: readonly { readonly coordinates: number; readonly keys: RunningSums }[];
  /** Squares of what the head's blocks add to the gradients: their sum is that of unrelated ones. */
  readonly sizes: Readonly<Record<Name, number>>;
  /** Mean number of near keys of a block, and of all that it sees. */
  readonly near: number;
  readonly seen: number;
}

/**
 * Deviation of what a proxy leaves out of a logit, at most: weights are known within a factor of about two. Where it is larger,
 * keys of a few blocks that their proxy overlooks make most of the error, and neither looks nor measured blocks are
 * sure to meet these blocks.
 */
const LARGEST_LEFT_OUT = 0.7;

/** Numbers of coordinates for heads of width d; none: the head is computed exactly. */
const coordinatesFor = (d: number, leftOut: (c: number) => number): number[] =>
  [...new Set(COORDINATES.map((c) => Math.min(c, d)))].filter(
    (c) => leftOut(c) <= LARGEST_LEFT_OUT,
  );

export function runPilot(task: PilotTask, wasm: Wasm, checkpoint: Checkpoint): Pilot {
  const { plan, workspace, head, seed, tables } = task;
  const { batch, heads, queryLength, headDim: d, valueDim: dv } = plan.problem.dims;
  wasm.reset();
  const { basis, leftOut } = basisOf(task, wasm, checkpoint);
  const partition = { ...head, partition: 0 };
  const count = looksAt(plan.blocks, batch * heads);
  const looks = spreadRows(plan.blocks, count, seed + head.head).map((block) => {
    const first = block * ROWS;
    return { partition, first, n: Math.min(ROWS, queryLength - first) };
  });
  const partitions: Partitions = {
    ...task,
    attentionOutput: null,
    partitions: [partition],
    first: 0,
    last: 0,
  };
  const memory = { ...prepareMemory(partitions, wasm, partition, checkpoint), warm: false };
  const tried = mapped(task, wasm, basis, coordinatesFor(d, leftOut), looks, checkpoint);
  const apart = new Apart(partitions, wasm, memory);
  const contributions = new Contributions(partitions, wasm, tables);
  const keySquares = new KeySquares(partitions, wasm, tables);
  const headGroup = Math.floor(head.place / plan.group);
  const spread = new Float32Array(plan.keys);
  spreadOf(wasm, slice(workspace.V, headGroup, plan.keys * dv), dv, spread);
  const keyDraw = new KeyDraw(wasm, spread, 0);
  const proxies = tried.map(({ coordinates }) => {
    return new KeyProxy(partitions, wasm, memory, coordinates);
  });
  const sizes = { query: 0, key: 0, value: 0 };
  let [near, seen] = [0, 0];
  const each = plan.blocks / looks.length;
  for (const rows of looks) {
    const { first, n } = rows;
    const { batchItem } = head.headGroup;
    const split = splitKeys(plan.problem, batchItem, { first, last: first + n });
    const far = split.far.reduce((sum, range) => sum + sizeOf(range), 0);
    const products = apart.whole(rows, checkpoint);
    keySquares.load(rows, products);
    for (const [name, x] of Object.entries(contributions.of(rows, products).roles)) {
      sizes[name as Name] += each * squareOf(x);
    }
    near += sizeOf(split.near) / looks.length;
    seen += (sizeOf(split.near) + far) / looks.length;
    proxies.forEach((proxy, k) => {
      checkpoint();
      const worths = keyDraw.weigh(proxy.weigh(rows, split.near, split.far), split.far);
      keySquares.addTo(tried[k]!.sums, worths, each);
    });
  }
  const found = tried.map(({ c, sums }) => ({ coordinates: c, keys: runningSums(sums) }));
  return { basis, tried: found, sizes, near, seen };
}

/** Keys, and queries of the blocks that are looked at, in each number of coordinates. Allocates. */
function mapped(
  { plan, workspace, head }: PilotTask,
  wasm: Wasm,
  basis: Basis,
  numbers: readonly number[],
  looks: readonly RowBlock[],
  checkpoint: Checkpoint,
) {
  const { queryLength, headDim: d } = plan.problem.dims;
  const sizes = new Float32Array(queryLength);
  squaresOfUpstream(wasm, plan, head, looks, sizes);
  const tried = numbers.map((c) => {
    const [queries, keys] = [looks.length * ROWS, plan.keys].map((rows) =>
      wasm.alloc(4 * wordsOfRows(rows, c)),
    ) as [number, number];
    const addressOf = (rows: RowBlock) => queries + 4 * looks.indexOf(rows) * wordsOfRows(ROWS, c);
    const coordinates: HeadCoordinates = {
      ...{ c, at: keys },
      queries: (rows) => wasm.i32(addressOf(rows), wordsOfRows(rows.n, c)),
      sizes: ({ first, n }) => sizes.subarray(first, first + n),
    };
    return { c, sums: makeKeySums(), addressOf, coordinates };
  });
  const Q = slice(workspace.Q, head.place, queryLength * d);
  for (const rows of looks) {
    const mine = Q.subarray(rows.first * d, (rows.first + rows.n) * d);
    const to = tried.map(({ c, addressOf }) => ({ c, at: addressOf(rows) }));
    mapQueries(wasm, basis, mine, d, to, checkpoint);
  }
  const K = slice(workspace.K, Math.floor(head.place / plan.group), plan.keys * d);
  const to = tried.map(({ coordinates: { c, at } }) => ({ c, at }));
  mapKeys(wasm, basis, K, d, to, checkpoint);
  return tried;
}
