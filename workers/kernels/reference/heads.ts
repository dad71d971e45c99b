/** The operations of a layer: projections and attention, head by head. */
import type { AttentionLayer, ProjectionName } from '../../problem.js';
import type { Head, HeadGradient } from './attention.js';
import { matrix } from './matrix.js';
import { blockRows, type Operation, tilesOf } from './operations.js';
import { lowProducts, type Place, projectHead } from './project.js';
import { findSeen, rowsOfItem, seenOf, type Workspace } from './workspace.js';

/** What is done with the heads of a layer, beside projecting them. */
export interface Visitor {
  /** Before the query heads of a group. */
  openGroup?(batchItem: number): Generator<Operation>;
  /** A query head whose Q, K and V are there. */
  head?(batchItem: number, head: number): Generator<Operation>;
  /** After the query heads of the group that uses key/value head `shared`. */
  closeGroup?(batchItem: number, shared: number): Generator<Operation>;
}

/** Every query head of every batch item, those that share keys and values one after the other. */
export function* everyHead(
  layer: AttentionLayer,
  workspace: Workspace,
  visitor: Visitor,
): Generator<Operation> {
  const { batch, heads, keyValueHeads } = layer.dims;
  const group = heads / keyValueHeads;
  for (let batchItem = 0; batchItem < batch; batchItem++) {
    const at = (name: ProjectionName): Place => ({ layer, workspace, name, batchItem });
    for (const name of ['q_proj', 'k_proj', 'v_proj'] as const) yield* lowProducts(at(name));
    findSeen(layer, workspace, batchItem);
    for (let shared = 0; shared < keyValueHeads; shared++) {
      yield* projectHead(at('k_proj'), shared);
      yield* projectHead(at('v_proj'), shared);
      if (visitor.openGroup) yield* visitor.openGroup(batchItem);
      for (let head = shared * group; head < (shared + 1) * group; head++) {
        yield* projectHead(at('q_proj'), head);
        if (visitor.head) yield* visitor.head(batchItem, head);
      }
      if (visitor.closeGroup) yield* visitor.closeGroup(batchItem, shared);
    }
  }
}

/** The head as attention.ts takes it, once it is projected. */
export function headOf(
  layer: AttentionLayer,
  workspace: Workspace,
  batchItem: number,
  head: number,
): Head {
  const { queryLength, headDim, valueDim } = layer.dims;
  const { q_proj, k_proj, v_proj } = workspace.projections;
  const keys = rowsOfItem(layer, 'k_proj', batchItem);
  const { largest, heaviest, others } = workspace;
  return {
    Q: matrix(q_proj.output, queryLength, headDim),
    K: matrix(k_proj.output, keys, headDim),
    V: matrix(v_proj.output, keys, valueDim),
    O: matrix(workspace.O, queryLength, valueDim),
    D: matrix(workspace.D, queryLength, valueDim),
    ...{ largest, heaviest, others, seen: seenOf(layer, workspace, batchItem) },
    ...{ scaling: layer.scaling, softcap: layer.softcap, sink: layer.sinks?.data[head] },
  };
}

/** Forward, and backward if there is a gradient to add to. */
export function* attend(head: Head, gradient: HeadGradient | null): Generator<Operation> {
  const { Q, V } = head;
  const size = blockRows(Q.columns, V.columns);
  for (let first = 0; first < Q.rows; first += size) {
    const tiles = tilesOf(head, { first, last: Math.min(first + size, Q.rows) });
    for (const tile of tiles) yield { kind: 'forward', head, tile };
    if (!gradient) continue;
    for (const tile of tiles) yield { kind: 'backward', head, gradient, tile };
  }
}
