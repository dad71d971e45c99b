/** The composed heads of a layer, one after the other, and their norms. */
import { Matrix } from 'ml-matrix';
import { type Cancelled, CancelledError, type Job, type Task } from '../../job.js';
import { keysOf, keysOfRow } from '../../mask.js';
import type { AttentionLayer } from '../../problem.js';
import type { ComposedNorms } from '../norms.js';
import { rotate, rotateBack } from '../rotary.js';
import type { HeadLayer } from './attention.js';
import { matrixOf, type ProjectedHead, projectHead, type Turn } from './projection.js';

export interface ComposedHead {
  readonly batchItem: number;
  readonly head: number;
  /** Index of the key/value head that this query head uses. */
  readonly sharedHead: number;
  readonly query: ProjectedHead;
  /** Of the keys before the padding at their end; at least of one. */
  readonly key: ProjectedHead;
  readonly value: ProjectedHead;
  /** From the gradient of rotated queries or keys to that of what the projection put out. */
  readonly turnBack: Turn;
}

/** All rows of a batch item rotated by their positions, or left as they are without rotary tables. */
function turner({ rotary }: AttentionLayer, batchItem: number, run: typeof rotate): Turn {
  if (!rotary) return (M) => M;
  return (M) => {
    const rows = Float64Array.from(M.to1DArray());
    run(rotary, batchItem, 0, rows);
    return Matrix.from1DArray(M.rows, M.columns, rows);
  };
}

/** Norms of a batch item that is all padding. */
const NOTHING = { frozen: 0, adapter: 0, sum: 0 };

/** Q, K and V of each head of each batch item; grouped query heads follow each other. */
export function* projectedHeads(layer: AttentionLayer): Generator<ComposedHead> {
  const { dims, inputs, projections } = layer;
  const { q_proj, k_proj, v_proj } = projections;
  const headsPerGroup = dims.heads / dims.keyValueHeads;
  for (let batchItem = 0; batchItem < dims.batch; batchItem++) {
    const firstQuery = batchItem * dims.queryLength;
    const firstKey = batchItem * dims.keyLength;
    const XQ = matrixOf(inputs.query, q_proj.inFeatures, firstQuery, dims.queryLength);
    const { last } = keysOf(layer, batchItem);
    const keys = Math.max(1, last);
    const seen = (of: ProjectedHead) => (last > 0 ? of : { ...of, norms: NOTHING });
    const XK = matrixOf(inputs.key, k_proj.inFeatures, firstKey, keys);
    const XV = matrixOf(inputs.value, v_proj.inFeatures, firstKey, keys);
    const turn = turner(layer, batchItem, rotate);
    const turnBack = turner(layer, batchItem, rotateBack);
    for (let head = 0; head < dims.heads; head++) {
      const sharedHead = Math.floor(head / headsPerGroup);
      yield {
        batchItem,
        head,
        sharedHead,
        query: projectHead(XQ, q_proj, head, dims.headDim, turn),
        key: seen(projectHead(XK, k_proj, sharedHead, dims.headDim, turn)),
        value: seen(projectHead(XV, v_proj, sharedHead, dims.valueDim)),
        turnBack,
      };
    }
  }
}

/** The head as attention.ts takes it. */
export function headLayer(layer: AttentionLayer, composed: ComposedHead): HeadLayer {
  const { batchItem, head, query, key, value } = composed;
  return {
    ...{ Q: query.output, K: key.output, V: value.output },
    ...{ scaling: layer.scaling, softcap: layer.softcap, sink: layer.sinks?.data[head] },
    keysOfRow: (row) => keysOfRow(layer, batchItem, row),
  };
}

export function normsOf(
  query: ProjectedHead,
  key: ProjectedHead,
  value: ProjectedHead,
  scaling: number,
): ComposedNorms {
  const root = Math.sqrt(scaling);
  return {
    query_frozen: root * query.norms.frozen,
    query_adapter: root * query.norms.adapter,
    query: root * query.norms.sum,
    key_frozen: root * key.norms.frozen,
    key_adapter: root * key.norms.adapter,
    key: root * key.norms.sum,
    value: value.norms.sum,
  };
}

export interface ReferenceNormsTask extends Task {
  readonly kernel: 'reference_norms';
  readonly layer: AttentionLayer;
}

export function runReferenceNormsTask(
  task: ReferenceNormsTask,
  cancelled: Cancelled,
): ComposedNorms[] {
  return Array.from(projectedHeads(task.layer), ({ query, key, value }) => {
    if (cancelled()) throw new CancelledError();
    return normsOf(query, key, value, task.layer.scaling);
  });
}

/** The composed norms of every head of every batch item alone: the cost of the projections. */
export function* referenceNormsJob(
  layer: AttentionLayer,
): Job<readonly ComposedNorms[], ReferenceNormsTask> {
  const [norms] = (yield {
    name: 'norms',
    uncut: true,
    tasks: [{ kernel: 'reference_norms', layer }],
  }) as [ComposedNorms[]];
  return norms;
}
