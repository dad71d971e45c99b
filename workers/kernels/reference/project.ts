/** The operations of projections: one head (a band of output features) of one batch item at a time. */
import type { AttentionLayer, ProjectionName } from '../../problem.js';
import type { Tensor } from '../../tensor/tensor.js';
import type { AdapterGradient } from '../result.js';
import { type Matrix, matrix, transposed } from './matrix.js';
import type { Operation } from './operations.js';
import { inputOf, rowsOfItem, sizesOf, type Workspace } from './workspace.js';

export interface Place {
  readonly layer: AttentionLayer;
  readonly workspace: Workspace;
  readonly name: ProjectionName;
  readonly batchItem: number;
}

/** X of the batch item, (L, in). */
function statesOf({ layer, name, batchItem }: Place): Matrix {
  const { inFeatures } = layer.projections[name];
  const at = batchItem * sizesOf(layer, name).rows * inFeatures;
  return matrix(inputOf(layer, name).data, rowsOfItem(layer, name, batchItem), inFeatures, at);
}

/** Columns of X, or of its gradient, that are the head where nothing projects. */
function band(X: Matrix, { layer, name }: Place, head: number): Matrix {
  const { width } = sizesOf(layer, name);
  return { ...X, at: X.at + head * width, columns: width };
}

/** Rows of W (out, in) or of B (out, r) that belong to a head. */
function bandOf({ data }: Pick<Tensor, 'data'>, columns: number, width: number, head: number) {
  return matrix(data, width, columns, head * width * columns);
}

/** low = X A^T, which all heads share. */
export function* lowProducts(place: Place): Generator<Operation> {
  const { layer, workspace, name } = place;
  const { adapter, inFeatures } = layer.projections[name];
  if (!adapter) return;
  const X = statesOf(place);
  const target = matrix(workspace.projections[name].low, X.rows, adapter.rank);
  const A = matrix(adapter.A.data, adapter.rank, inFeatures);
  yield { kind: 'clear', target };
  yield { kind: 'product', target, left: X, right: transposed(A), factor: 1 };
}

/** Q, K or V of a head, and its norms. */
export function* projectHead(place: Place, head: number): Generator<Operation> {
  const { layer, workspace, name, batchItem } = place;
  const { weight, bias, adapter, inFeatures } = layer.projections[name];
  const { width, heads } = sizesOf(layer, name);
  const { output, low, norms } = workspace.projections[name];
  const X = statesOf(place);
  if (X.rows === 0) return;
  const target = matrix(output, X.rows, width);
  yield { kind: 'clear', target };
  if (weight) {
    const W = bandOf(weight, inFeatures, width, head);
    yield { kind: 'product', target, left: X, right: transposed(W), factor: 1 };
  } else yield { kind: 'add', target, term: band(X, place, head) };
  const term = adapter && matrix(workspace.adapter, X.rows, width);
  if (adapter && term) {
    const left = matrix(low, X.rows, adapter.rank);
    const right = transposed(bandOf(adapter.B, adapter.rank, width, head));
    yield { kind: 'clear', target: term };
    yield { kind: 'product', target: term, left, right, factor: adapter.scaling };
  }
  const index = 3 * (batchItem * heads + head);
  yield {
    kind: 'compose',
    target,
    term,
    bias: bias?.data.subarray(head * width, (head + 1) * width) ?? null,
    rotary: name === 'v_proj' ? null : (layer.rotary ?? null),
    batchItem,
    first: 0,
    norms: norms.subarray(index, index + 3),
  };
}

/**
 * From the gradient of a head's output to those of its adapter and of its input, which are sums over heads.
 *
 *     d lora_A += s (dOut B_h)^T X        d lora_B[head's rows] += s dOut^T (X A^T)        dX += dOut (W_h + s B_h A)
 *
 * @param totals null: none is wanted.
 * @param inputGradient dX of all batch items; undefined: it is not wanted.
 */
export function* projectBack(
  place: Place,
  head: number,
  totals: AdapterGradient | undefined,
  inputGradient: Float64Array | undefined,
): Generator<Operation> {
  const { layer, workspace, name, batchItem } = place;
  const { weight, adapter, inFeatures } = layer.projections[name];
  const { width } = sizesOf(layer, name);
  const { gradient, low } = workspace.projections[name];
  const X = statesOf(place);
  const dOut = matrix(gradient, X.rows, width);
  if (layer.rotary && name !== 'v_proj') {
    yield { kind: 'rotate_back', target: dOut, rotary: layer.rotary, batchItem, first: 0 };
  }
  const dX = inputGradient && { ...X, data: inputGradient };
  if (dX && weight) {
    const right = bandOf(weight, inFeatures, width, head);
    yield { kind: 'product', target: dX, left: dOut, right, factor: 1 };
  } else if (dX) yield { kind: 'add', target: band(dX, place, head), term: dOut };
  if (!adapter) return;
  const { A, B, rank, scaling: s } = adapter;
  const back = matrix(workspace.back, X.rows, rank);
  yield { kind: 'clear', target: back };
  yield {
    kind: 'product',
    target: back,
    left: dOut,
    right: bandOf(B, rank, width, head),
    factor: s,
  };
  if (dX) {
    const right = matrix(A.data, rank, inFeatures);
    yield { kind: 'product', target: dX, left: back, right, factor: 1 };
  }
  if (!totals) return;
  const dA = matrix(totals.lora_A, rank, inFeatures);
  yield { kind: 'product', target: dA, left: transposed(back), right: X, factor: 1 };
  const dB = bandOf({ data: totals.lora_B }, rank, width, head);
  const right = matrix(low, X.rows, rank);
  yield { kind: 'product', target: dB, left: transposed(dOut), right, factor: s };
}
