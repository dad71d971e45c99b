/** The client's side of the tensor store, written apart from src on purpose. */
import { createHash } from 'node:crypto';
import type { GradientRequest } from './fixtures.js';
import { DIALECTS, type Dialect, mapTensors } from './wire/dialects.js';
import type { WireTensor } from './wire/wire-tensor.js';

/** As docs say: SHA-256 of "{dtype}\n{shape}\n" and the data. */
export function sha256({ dtype, shape, data }: WireTensor): string {
  return createHash('sha256').update(`${dtype}\n${shape.join()}\n`).update(data).digest('hex');
}

export function reference(tensor: WireTensor): { $ref: string } {
  return { $ref: `sha256:${sha256(tensor)}` };
}

/** The request with references in place of its tensors, those of `chosen` or all of them. */
export function withReferences(
  request: GradientRequest,
  chosen: (tensor: WireTensor) => boolean = () => true,
): GradientRequest {
  const change = (tensor: WireTensor) => (chosen(tensor) ? reference(tensor) : tensor);
  return mapTensors(request, change) as GradientRequest;
}

/** PUT under its digest, or under another one. */
export function putTensor(
  url: string,
  tensor: WireTensor,
  { contentType, encode }: Dialect = DIALECTS.tensors,
  digest = sha256(tensor),
): Promise<Response> {
  return fetch(`${url}/tensors/${digest}`, {
    method: 'PUT',
    headers: { 'content-type': contentType },
    body: new Uint8Array(encode(tensor as unknown as GradientRequest)),
  });
}

/** PUT every tensor of a request. */
export async function putTensors(url: string, request: GradientRequest): Promise<void> {
  const tensors: WireTensor[] = [];
  mapTensors(request, (tensor) => tensors.push(tensor));
  for (const tensor of tensors) {
    const { status } = await putTensor(url, tensor);
    if (status !== 201 && status !== 204) throw new Error(`PUT is answered with ${status}`);
  }
}
