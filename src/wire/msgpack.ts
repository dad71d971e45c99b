/** MessagePack in and out. */
// The entry 'msgpackr' loads a native addon that crashes the process on shared memory; these do not.
import { Packr } from 'msgpackr/pack';
import { Unpackr } from 'msgpackr/unpack';
import { NUMPY_NAME } from '../../workers/tensor/dtype.js';
import type { EncodedTensor } from '../../workers/tensor/encoded.js';
import { narrowTensor, widenEncoded } from '../../workers/tensor/narrow.js';
import { renderAnswer } from './answer-tree.js';
import { scanMsgpack } from './msgpack-scan.js';
import { type Decoded, type Dialect, walkTree } from './tree/tree.js';
import type { WireLimits } from './tree/wire-limits.js';

const SETTINGS = {
  useRecords: false,
  mapsAsObjects: false,
  int64AsType: 'number',
  variableMapSize: true,
} as const;

const unpackr = new Unpackr(SETTINGS);
const packr = new Packr(SETTINGS);

/** Room for everything in an answer that is not tensor data; the encoder grows it if need be. */
const HEADROOM = 16_384;
const IDLE_BUFFER = 8_192;

/**
 * Reads one MessagePack value that fills `body`; `body` may be a view of a SharedArrayBuffer, and the
 * tensors are views of it. Throws WireError.
 */
export function decodeMsgpack(body: Uint8Array, limits: WireLimits): Decoded {
  scanMsgpack(body, limits);
  const view = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  return walkTree(unpackr.unpack(view), 'tensor', limits);
}

/**
 * Writes an answer, tensors in kind: 'numpy' as msgpack-numpy does, 'tensor' and 'list' as
 * {dtype, shape, data}. NaN and infinity outside tensors become nil.
 */
export function encodeMsgpack(answer: object, dialect: Dialect): Buffer {
  let bytes = HEADROOM;
  const packable = renderAnswer(answer, (tensor) => {
    const widened = dialect === 'numpy' && tensor.dtype === 'bfloat16';
    bytes += tensor.bytes.length * (widened ? 2 : 1);
    return dialect === 'numpy' ? numpyMap(tensor) : tensorMap(tensor);
  });
  // The encoder keeps its last buffer for the next message: give it one of the right size, and take
  // it away again, so that a large answer costs one copy and is not held afterwards.
  packr.useBuffer(Buffer.allocUnsafeSlow(bytes));
  try {
    return packr.pack(packable);
  } finally {
    packr.useBuffer(Buffer.allocUnsafeSlow(IDLE_BUFFER));
  }
}

function tensorMap(tensor: EncodedTensor): unknown {
  return { dtype: tensor.dtype, shape: tensor.shape, data: bufferOf(tensor.bytes) };
}

/** What msgpack_numpy.encode writes; bfloat16, which numpy does not have, goes as float32. */
function numpyMap(tensor: EncodedTensor): unknown {
  const { dtype, bytes, shape } =
    tensor.dtype === 'bfloat16'
      ? narrowTensor(widenEncoded(tensor), 'float32', tensor.shape)
      : tensor;
  return new Map<Buffer, unknown>([
    [Buffer.from('nd'), true],
    [Buffer.from('type'), NUMPY_NAME[dtype as keyof typeof NUMPY_NAME]],
    [Buffer.from('kind'), Buffer.alloc(0)],
    [Buffer.from('shape'), shape],
    [Buffer.from('data'), bufferOf(bytes)],
  ]);
}

/** The encoder writes a Buffer as bin, and other typed arrays wrongly. */
function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
