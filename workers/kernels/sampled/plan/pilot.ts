/**
 * What the plan knows of a head: some blocks over all their keys, against what proxies of several numbers of
 * coordinates say of these.
 */
import type { Task } from '../../../job.js';
import { prepareMemory } from '../../attention/memory.js';
import type { LaneOfHead, Lanes } from '../../attention/task.js';
import { spreadRows } from '../../estimate/rows.js';
import { ROWS } from '../../inner/block.js';
import type { Wasm } from '../../inner/instance.js';
import { slice } from '../../inner/operands.js';
import { splitKeys } from '../attend.js';
import { type Coordinates, mapHead, spreadOf } from '../coordinates.js';
import { worthOf } from '../draw.js';
import type { Tables } from '../error/tables.js';
import { Influences } from '../influence.js';
import { KeyProxy } from '../proxy.js';
import { basisOf } from './basis.js';
import { type Basis, COORDINATES, looksAt } from './plan.js';
import { addKeys, type KeySums, makeKeySums, NAMES, type Name } from './scale.js';

export interface PilotTask extends Task<Pilot>, Pick<Lanes, 'plan' | 'workspace' | 'wave'> {
  readonly kernel: 'sampled';
  readonly step: 'pilot';
  readonly head: Omit<LaneOfHead, 'lane'>;
  readonly tables: Tables;
  readonly seed: number;
}

/** Sums are those of all blocks of the head, extrapolated. */
export interface Pilot {
  readonly basis: Basis;
  readonly tried: readonly { readonly coordinates: number; readonly keys: KeySums }[];
  /** Squares of what the head's blocks add to the gradients: their sum is that of unrelated ones. */
  readonly sizes: Readonly<Record<Name, number>>;
  /** Mean number of near keys of a block, and of all that it sees. */
  readonly near: number;
  readonly seen: number;
}

/** Numbers of coordinates for heads of width d. */
export const coordinatesFor = (d: number): number[] => [
  ...new Set(COORDINATES.map((c) => Math.min(c, d))),
];

export function runPilot(task: PilotTask, wasm: Wasm, checkpoint: () => void): Pilot {
  const { plan, workspace, head, seed, tables } = task;
  const { queryLength, headDim: d, valueDim: dv } = plan.problem.dims;
  wasm.reset();
  const basis = basisOf(task, wasm);
  const spread = new Float32Array(plan.keys);
  const unit = Math.floor(head.place / plan.group);
  spreadOf(slice(workspace.V, unit, plan.keys * dv), dv, spread);
  const tried = coordinatesFor(d).map((c) => {
    const pitch = c + 2;
    const coordinates: Coordinates = {
      queries: new Float32Array(queryLength * pitch),
      keys: new Float32Array(plan.keys * pitch),
      ...{ spread, pitch },
    };
    const { queries, keys } = coordinates;
    mapHead(task, wasm, { basis, coordinates: c }, queries, keys, checkpoint);
    return { c, coordinates, sums: makeKeySums() };
  });
  const lane = { ...head, lane: 0 };
  const lanes: Lanes = { ...task, attentionOutput: null, lanes: [lane], first: 0, last: 0 };
  const memory = { ...prepareMemory(lanes, wasm, lane, checkpoint), warm: false };
  const influences = new Influences(lanes, wasm, memory, tables);
  const proxies = tried.map(({ c, coordinates }) => {
    return new KeyProxy(lanes, wasm, memory, 0, coordinates, c);
  });
  const worth = new Float64Array(plan.keys);
  const sizes = { query: 0, key: 0, value: 0 };
  let [near, seen] = [0, 0];
  const blocks = spreadRows(plan.blocks, looksAt(plan.blocks), seed + head.head);
  const each = plan.blocks / blocks.length;
  for (const block of blocks) {
    const first = block * ROWS;
    const rows = { lane, first, n: Math.min(ROWS, queryLength - first) };
    const split = splitKeys(lanes, rows);
    const { squares, sizes: mine } = influences.of(rows, checkpoint);
    for (const name of NAMES) sizes[name] += each * mine[name];
    const index = split.far.flatMap((range) =>
      Array.from({ length: range.last - range.first }, (_, k) => range.first + k),
    );
    near += (split.near.last - split.near.first) / blocks.length;
    seen += (split.near.last - split.near.first + index.length) / blocks.length;
    proxies.forEach((proxy, k) => {
      checkpoint();
      const n = worthOf(proxy.weigh(rows, split.near, split.far), spread, split.far, worth);
      addKeys(tried[k]!.sums, worth, n, (name, place) => squares[name][index[place]!]!, each);
    });
  }
  const found = tried.map(({ c, sums }) => ({ coordinates: c, keys: sums }));
  return { basis, tried: found, sizes, near, seen };
}
