import { isEncodedTensor } from './encoded.js';
import { type Decoded, type Dialect, toTree } from './tree.js';
import { WireError } from './wire-error.js';
export function decodeJson(b: Uint8Array): Decoded {
  try {
    return toTree(JSON.parse(Buffer.from(b).toString()));
  } catch (e) {
    if (e instanceof WireError) throw e;
    throw new WireError('malformed-body', '', String(e));
  }
}
export function encodeJson(v: unknown, _d: Dialect): Buffer {
  return Buffer.from(
    JSON.stringify(v, (_k, x) =>
      isEncodedTensor(x)
        ? { dtype: x.dtype, shape: x.shape, data: Buffer.from(x.bytes).toString('base64') }
        : x,
    ),
  );
}
