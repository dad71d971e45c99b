/** The memory of a float64 computation: of one head at a time, one after the other. */
import { keysOf, keysOfRow } from '../../mask.js';
import { type AttentionLayer, PROJECTIONS, type ProjectionName } from '../../problem.js';
import type { Lease } from '../../tensor/shared-memory.js';
import type { ComposedNorms } from '../norms.js';
import { ROLES } from '../result.js';

interface ProjectionSpace {
  /** (L, width): Q, K or V. */
  readonly output: Float64Array;
  /** (L, width): its gradient. */
  readonly gradient: Float64Array;
  /** (L, r): X A^T; empty without an adapter. */
  readonly low: Float64Array;
  /** Norms by batch item and head: max |frozen|, |adapter|, |output|. */
  readonly norms: Float64Array;
}

export interface Workspace {
  readonly projections: Readonly<Record<ProjectionName, ProjectionSpace>>;
  /** (Lq, dv): see attention.ts. */
  readonly O: Float64Array;
  readonly D: Float64Array;
  /** The adapter's part of an output, (L, width). */
  readonly adapter: Float64Array;
  /** dOut B, (L, r). */
  readonly back: Float64Array;
  /** One entry for each row: see attention.ts. */
  readonly largest: Float64Array;
  readonly heaviest: Int32Array;
  readonly others: Float64Array;
  /** By batch item and row. */
  readonly seen: Int32Array;
  /** One number. */
  readonly loss: Float64Array;
}

/** Rows, width and heads of what a projection puts out for one batch item. */
export function sizesOf({ dims }: AttentionLayer, name: ProjectionName) {
  const isQuery = name === 'q_proj';
  return {
    rows: isQuery ? dims.queryLength : dims.keyLength,
    width: name === 'v_proj' ? dims.valueDim : dims.headDim,
    heads: isQuery ? dims.heads : dims.keyValueHeads,
  };
}

/** @param backward whether there is to be a gradient. */
export function makeWorkspace(
  layer: AttentionLayer,
  backward: boolean,
  memory: Pick<Lease, 'float64' | 'int32'>,
): Workspace {
  const { batch, queryLength, valueDim } = layer.dims;
  const floats = (length: number) => memory.float64(length);
  const all = PROJECTIONS.map((name) => {
    const { rows, width, heads } = sizesOf(layer, name);
    const rank = layer.projections[name].adapter?.rank ?? 0;
    return { name, entries: rows * width, low: rows * rank, norms: 3 * batch * heads };
  });
  const adapted = all.filter(({ low }) => low > 0);
  const most = (sizes: readonly number[]) => Math.max(0, ...sizes);
  return {
    projections: Object.fromEntries(
      all.map(({ name, entries, low, norms }) => [
        name,
        {
          output: floats(entries),
          gradient: floats(backward ? entries : 0),
          low: floats(low),
          norms: floats(norms).fill(0),
        },
      ]),
    ) as unknown as Workspace['projections'],
    O: floats(queryLength * valueDim),
    D: floats(queryLength * valueDim),
    adapter: floats(most(adapted.map(({ entries }) => entries))),
    back: floats(backward ? most(adapted.map(({ low }) => low)) : 0),
    largest: floats(queryLength),
    heaviest: memory.int32(queryLength),
    others: floats(queryLength),
    seen: memory.int32(2 * batch * queryLength),
    loss: floats(1).fill(0),
  };
}

/** Rows that a projection is applied to: keys only before the padding at their end. */
export function rowsOfItem(layer: AttentionLayer, name: ProjectionName, batchItem: number): number {
  return name === 'q_proj' ? layer.dims.queryLength : keysOf(layer, batchItem).last;
}

/** Keys that the rows of a batch item see. */
export function seenOf(
  { dims }: AttentionLayer,
  { seen }: Workspace,
  batchItem: number,
): Int32Array {
  const { queryLength } = dims;
  return seen.subarray(2 * batchItem * queryLength, 2 * (batchItem + 1) * queryLength);
}

/** Finds the keys that the rows of a batch item see. */
export function findSeen(layer: AttentionLayer, workspace: Workspace, batchItem: number): void {
  const seen = seenOf(layer, workspace, batchItem);
  for (let row = 0; row < layer.dims.queryLength; row++) {
    const { first, last } = keysOfRow(layer, batchItem, row);
    seen[2 * row] = first;
    seen[2 * row + 1] = last;
  }
}

/** By batch item and query head. */
export function normsOf(layer: AttentionLayer, workspace: Workspace): ComposedNorms[] {
  const { batch, heads, keyValueHeads } = layer.dims;
  const root = Math.sqrt(layer.scaling);
  const of = (name: ProjectionName, index: number) =>
    workspace.projections[name].norms.subarray(3 * index, 3 * index + 3);
  return Array.from({ length: batch * heads }, (_, index) => {
    const shared = Math.floor(index / (heads / keyValueHeads));
    const query = of('q_proj', index);
    const key = of('k_proj', shared);
    return {
      query_frozen: root * query[0]!,
      query_adapter: root * query[1]!,
      query: root * query[2]!,
      key_frozen: root * key[0]!,
      key_adapter: root * key[1]!,
      key: root * key[2]!,
      value: of('v_proj', shared)[2]!,
    };
  });
}

export const inputOf = (layer: AttentionLayer, name: ProjectionName) => layer.inputs[ROLES[name]];
