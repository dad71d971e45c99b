/** Requests and answers of the client as MessagePack. */
import { type EncodedTensor, isEncodedTensor } from '../../workers/tensor/encoded.js';
import { widenEncoded } from '../../workers/tensor/narrow.js';
import { decodeMsgpack, encodeMsgpack } from '../wire/msgpack.js';
import { REFERENCE_KEY } from '../wire/tree/reference.js';
import { DEFAULT_WIRE_LIMITS } from '../wire/tree/wire-limits.js';
import { encodeTensor, KeptTensor } from './kept-tensor.js';
import type { GradientRequest, Tensor, TensorInput } from './types.js';

function isTensor(value: object): value is TensorInput {
  return 'data' in value && 'shape' in value;
}

/** A copy of plain objects, with everything else in it replaced. */
function mapLeaves(value: unknown, change: (leaf: unknown) => unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return change(value);
  if (value instanceof KeptTensor || isEncodedTensor(value) || isTensor(value))
    return change(value);
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, mapLeaves(item, change)]),
  );
}

/** Every kept tensor of a request, once. */
export function keptTensors(request: GradientRequest): KeptTensor[] {
  const kept = new Map<string, KeptTensor>();
  mapLeaves(request, (leaf) => {
    if (leaf instanceof KeptTensor) kept.set(leaf.name, leaf);
  });
  return [...kept.values()];
}

/** @param stored names of the kept tensors that go by reference; the others travel. */
export function encodeRequest(request: GradientRequest, stored: ReadonlySet<string>): Uint8Array {
  const body = mapLeaves(request, (leaf) => {
    if (leaf instanceof KeptTensor) {
      return stored.has(leaf.name) ? { [REFERENCE_KEY]: leaf.name } : leaf.encoded;
    }
    return typeof leaf === 'object' && leaf !== null && isTensor(leaf) ? encodeTensor(leaf) : leaf;
  });
  return encodeMsgpack(body as object, 'tensor');
}

export function encodeTensorBody(tensor: EncodedTensor): Uint8Array {
  return encodeMsgpack(tensor, 'tensor');
}

/** float16 and bfloat16 are widened to float32. */
export function decodeAnswer(body: Uint8Array): unknown {
  const { value } = decodeMsgpack(body, DEFAULT_WIRE_LIMITS);
  return mapLeaves(value, (leaf): unknown => {
    if (!isEncodedTensor(leaf)) return leaf;
    const { dtype, shape } = leaf;
    return { dtype, shape, data: widenEncoded(leaf) } satisfies Tensor;
  });
}
