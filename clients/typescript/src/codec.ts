/** Requests and answers as MessagePack. */
import { decode, Encoder } from '@msgpack/msgpack';
import type { ForwardRequest, GradientRequest } from './api.js';
import { KeptTensor } from './kept-tensor.js';
import { fromWire, isTensor, toWire, type WireTensor } from './tensors.js';

/** Bytes of a body beside its tensors; the encoder grows its buffer if need be. */
const HEADROOM = 16_384;

/** A copy of plain objects, with everything else in it replaced. */
function mapLeaves(value: unknown, change: (leaf: unknown) => unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return change(value);
  if (value instanceof KeptTensor || isTensor(value)) return change(value);
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, mapLeaves(item, change)]),
  );
}

/** Every kept tensor of a request, once. */
export function keptTensors(request: GradientRequest | ForwardRequest): KeptTensor[] {
  const kept = new Set<KeptTensor>();
  mapLeaves(request, (leaf) => {
    if (leaf instanceof KeptTensor) kept.add(leaf);
  });
  return [...kept];
}

/**
 * The body of a request, as other programs may send it.
 *
 * @param stored names of the kept tensors that go by reference; the others travel.
 */
export function encodeRequest(
  request: GradientRequest | ForwardRequest,
  stored: ReadonlyMap<KeptTensor, string> = new Map(),
): Uint8Array {
  let bytes = HEADROOM;
  const travel = (tensor: WireTensor) => {
    bytes += tensor.data.length;
    return tensor;
  };
  const body = mapLeaves(request, (leaf) => {
    if (leaf instanceof KeptTensor) {
      const name = stored.get(leaf);
      return name === undefined ? travel(leaf.wire) : { $ref: name };
    }
    return typeof leaf === 'object' && leaf !== null && isTensor(leaf)
      ? travel(toWire(leaf))
      : leaf;
  });
  return encode(body, bytes);
}

export function encodeTensorBody(tensor: WireTensor): Uint8Array {
  return encode(tensor, HEADROOM + tensor.data.length);
}

/** Into one buffer that is large enough, so that nothing is copied twice. */
function encode(value: unknown, bytes: number): Uint8Array {
  return new Encoder({ initialBufferSize: bytes, ignoreUndefined: true }).encodeSharedRef(value);
}

/** What encodeRequest wrote. */
export function decodeRequest(body: Uint8Array): GradientRequest {
  return decodeAnswer(body) as GradientRequest;
}

export function decodeAnswer(body: Uint8Array): unknown {
  return mapLeaves(decode(body), (leaf) =>
    typeof leaf === 'object' && leaf !== null && isTensor(leaf)
      ? fromWire(leaf as unknown as WireTensor)
      : leaf,
  );
}
