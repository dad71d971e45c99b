/** One request in every way that it can be written down, and any answer read back. */
import { Unpackr } from 'msgpackr/unpack';
import type { GradientRequest } from '../fixtures.js';
import { encodeMsgpack } from './msgpack-encode.js';
import { encodeValues, values, type WireTensor } from './wire-tensor.js';

export const MSGPACK = 'application/vnd.msgpack';
export const JSON_TYPE = 'application/json';

function isTensor(value: unknown): value is WireTensor {
  return typeof value === 'object' && value !== null && 'dtype' in value && 'data' in value;
}

/** The request with every tensor replaced. */
export function mapTensors(value: unknown, change: (tensor: WireTensor) => unknown): unknown {
  if (isTensor(value)) return change(value);
  if (Array.isArray(value) || typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, mapTensors(item, change)]),
  );
}

const NUMPY = { float64: '<f8', float32: '<f4', float16: '<f2' } as Record<string, string>;
const SAFETENSORS = { float64: 'F64', float32: 'F32', float16: 'F16', bfloat16: 'BF16' } as Record<
  string,
  string
>;

/** What msgpack_numpy.encode makes of an array: every key is bytes. */
function msgpackNumpy({ dtype, shape, data }: WireTensor): Map<Buffer, unknown> {
  return new Map<Buffer, unknown>([
    [Buffer.from('nd'), true],
    [Buffer.from('type'), NUMPY[dtype]],
    [Buffer.from('kind'), Buffer.alloc(0)],
    [Buffer.from('shape'), shape],
    [Buffer.from('data'), data],
  ]);
}

export function nestedLists({ shape, ...tensor }: WireTensor): unknown {
  let rows: unknown[] = [...values({ shape, ...tensor })];
  for (const size of shape.slice(1).reverse()) {
    rows = Array.from({ length: rows.length / size }, (_, i) =>
      rows.slice(i * size, (i + 1) * size),
    );
  }
  return rows;
}

const base64 = (data: Uint8Array) => Buffer.from(data).toString('base64');

/** How a tensor was written. */
export type Form = 'tensor' | 'numpy' | 'list';

export interface Dialect {
  readonly name: string;
  readonly contentType: string;
  /** In which form its tensors are answered, by the media type of the answer. */
  readonly answered: Readonly<Record<string, Form>>;
  encode(request: GradientRequest): Buffer;
}

/** In the same form where the format of the answer has it, else as {dtype, shape, data}. */
const ANSWERED: Record<Form, Readonly<Record<string, Form>>> = {
  tensor: { [MSGPACK]: 'tensor', [JSON_TYPE]: 'tensor' },
  numpy: { [MSGPACK]: 'numpy', [JSON_TYPE]: 'tensor' },
  list: { [MSGPACK]: 'tensor', [JSON_TYPE]: 'list' },
};

function dialect(
  name: string,
  contentType: string,
  form: Form,
  change: (tensor: WireTensor) => unknown,
): Dialect {
  const encode = (request: GradientRequest) => {
    const body = mapTensors(request, change);
    return contentType === MSGPACK ? encodeMsgpack(body) : Buffer.from(JSON.stringify(body));
  };
  return { name, contentType, answered: ANSWERED[form], encode };
}

export const DIALECTS = {
  tensors: dialect('msgpack', MSGPACK, 'tensor', (tensor) => tensor),
  numpyNames: dialect('msgpack, numpy names', MSGPACK, 'tensor', (tensor) => ({
    ...tensor,
    dtype: NUMPY[tensor.dtype] ?? tensor.dtype,
  })),
  msgpackNumpy: dialect('msgpack-numpy', MSGPACK, 'numpy', msgpackNumpy),
  base64: dialect('JSON base64', JSON_TYPE, 'tensor', (tensor) => ({
    ...tensor,
    data: base64(tensor.data),
  })),
  safetensorsNames: dialect('JSON base64, safetensors names', JSON_TYPE, 'tensor', (tensor) => ({
    ...tensor,
    dtype: SAFETENSORS[tensor.dtype],
    data: base64(tensor.data),
  })),
  lists: dialect('JSON lists', JSON_TYPE, 'list', nestedLists),
};

/** The same numbers in float32, where that loses nothing: all but float64. */
export function inFloat32(tensor: WireTensor): WireTensor {
  return encodeValues('float32', tensor.shape, values(tensor));
}

/** A key that msgpack-numpy wrote is bytes. */
function keyName(key: unknown): string {
  return key instanceof Uint8Array ? Buffer.from(key).toString() : String(key);
}

export interface AnswerTensor extends WireTensor {
  readonly form: Form;
}

/** A tensor of an answer in whatever form it came; null for anything else. */
function readTensor(value: unknown): AnswerTensor | null {
  if (value instanceof Map) {
    const fields = new Map([...value].map(([key, item]) => [keyName(key), item]));
    if (fields.has('nd')) {
      if (![...value.keys()].every((key) => key instanceof Uint8Array)) {
        throw new Error('msgpack_numpy.decode looks for bytes keys');
      }
      const type = Object.keys(NUMPY).find((dtype) => NUMPY[dtype] === fields.get('type'));
      return { dtype: type!, shape: fields.get('shape'), data: fields.get('data'), form: 'numpy' };
    }
    if (fields.has('dtype')) {
      return { ...(Object.fromEntries(fields) as unknown as WireTensor), form: 'tensor' };
    }
  } else if (isTensor(value)) {
    const { dtype, shape, data } = value as unknown as Omit<WireTensor, 'data'> & { data: string };
    return { dtype, shape, data: Buffer.from(data, 'base64'), form: 'tensor' };
  } else if (Array.isArray(value) && Array.isArray(value[0])) {
    const shape: number[] = [];
    for (let level: unknown = value; Array.isArray(level); level = level[0]) {
      shape.push(level.length);
    }
    // Adding zero turns -0, which a list in JSON may not keep, into 0.
    const numbers = (value.flat(Number.POSITIVE_INFINITY) as number[]).map((x) => x + 0);
    return { ...encodeValues('float32', shape, Float64Array.from(numbers)), form: 'list' };
  }
  return null;
}

function readTree(value: unknown): unknown {
  const tensor = readTensor(value);
  if (tensor) return tensor;
  if (Array.isArray(value)) return value.map(readTree);
  if (typeof value !== 'object' || value === null) return value;
  const entries: [unknown, unknown][] = value instanceof Map ? [...value] : Object.entries(value);
  return Object.fromEntries(entries.map(([key, item]) => [keyName(key), readTree(item)]));
}

const unpackr = new Unpackr({ mapsAsObjects: false, int64AsType: 'number' });

/** An answer as plain objects, with every tensor as {dtype, shape, data}. */
export function decodeAnswer(body: Uint8Array, contentType: string): unknown {
  const json = /[/+]json\b/.test(contentType);
  return readTree(json ? JSON.parse(Buffer.from(body).toString()) : unpackr.unpack(body));
}
