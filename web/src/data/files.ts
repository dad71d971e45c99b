/** Files that may be dropped on the page: .npy, .safetensors, or a request as MessagePack. */
import { decodeRequest, type GradientRequest, type TensorInput } from 'loragrad-client';
import { parseDtype } from '../../../workers/tensor/dtype.js';
import { encodedTensor } from '../../../workers/tensor/encoded.js';
import { widenEncoded } from '../../../workers/tensor/narrow.js';
import { makeRequest } from './make.js';
import type { Settings } from './settings.js';

function tensorOf(name: string, shape: readonly number[], bytes: Uint8Array): TensorInput {
  const dtype = parseDtype(name);
  if (dtype === null)
    throw new Error(`The file holds ${name}; float16, bfloat16, float32 and float64 can be read.`);
  return { dtype, shape, data: widenEncoded(encodedTensor(dtype, shape, bytes)) };
}

/** https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
export function readNpy(file: Uint8Array): TensorInput {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const wide = file[6] >= 2;
  const start = wide ? 12 : 10;
  const end = start + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(file.subarray(start, end));
  const descr = /'descr':\s*'([^']+)'/.exec(header)?.[1];
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  if (descr === undefined || shape === undefined)
    throw new Error('This .npy file has no array of one type.');
  if (/'fortran_order':\s*True/.test(header))
    throw new Error('This .npy file is in Fortran order; save a C-ordered array.');
  const sizes = shape
    .split(',')
    .filter((size) => size.trim() !== '')
    .map(Number);
  return tensorOf(descr, sizes, file.subarray(end));
}

/** https://huggingface.co/docs/safetensors: a length, a JSON header, the data. */
export function readSafetensors(file: Uint8Array): Map<string, TensorInput> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const data = 8 + Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, data))) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = Object.entries(header).filter(([name]) => name !== '__metadata__');
  return new Map(
    tensors.map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => [name, tensorOf(dtype, shape, file.subarray(data + from, data + to))],
    ),
  );
}

/** `q_proj.lora_A` and the like, after any prefix that the file gives them. */
function nested(tensors: ReadonlyMap<string, TensorInput>): GradientRequest {
  const request: Record<string, unknown> = {};
  for (const [name, tensor] of tensors) {
    const path =
      /(?:^|\.)((?:[qkv]_proj\.)?(?:weight|bias|lora_[AB]|hidden_states|grad_output|target|cos|sin|\w+_states))$/;
    const [field, part] = (path.exec(name)?.[1] ?? name).split('.');
    if (part === undefined) request[field] = tensor;
    else request[field] = { ...(request[field] as object), [part]: tensor };
  }
  return request as unknown as GradientRequest;
}

/**
 * A request made of a file: an array (L, d) becomes the hidden states of a made layer; tensors with the names of a request
 * take the places of made ones.
 */
export async function requestOfFile(file: File, settings: Settings): Promise<GradientRequest> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const asked = { tolerance: settings.tolerance, method: settings.method };
  if (file.name.endsWith('.npy')) {
    const hidden_states = readNpy(bytes);
    const [L, d] = hidden_states.shape.slice(-2);
    if (hidden_states.shape.length !== 2)
      throw new Error(`The array has shape (${hidden_states.shape}); hidden states are (L, d).`);
    return { ...makeRequest({ ...settings, length: L, headDim: d }), hidden_states, ...asked };
  }
  if (file.name.endsWith('.safetensors')) return { ...nested(readSafetensors(bytes)), ...asked };
  if (/\.(msgpack|mpk)$/.test(file.name)) return { ...decodeRequest(bytes), ...asked };
  throw new Error(`${file.name}: drop a .npy, .safetensors or .msgpack file.`);
}
