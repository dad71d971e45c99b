/** JSON in and out. */
import { isUtf8 } from 'node:buffer';
import type { EncodedTensor } from '../../workers/tensor/encoded.js';
import { widenEncoded } from '../../workers/tensor/narrow.js';
import { renderAnswer } from './answer-tree.js';
import { scanJson } from './json-scan.js';
import { type Decoded, type Dialect, walkTree } from './tree/tree.js';
import { WireError } from './tree/wire-error.js';
import type { WireLimits } from './tree/wire-limits.js';

/**
 * Reads a JSON text; tensors are {dtype, shape, data: base64} or nested lists of numbers, which become
 * float32. `body` may be a view of a SharedArrayBuffer. Throws WireError.
 */
export function decodeJson(body: Uint8Array, limits: WireLimits): Decoded {
  if (!isUtf8(body)) {
    throw new WireError('malformed-body', '', 'The body is not UTF-8 text, so it is not JSON.');
  }
  const view = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  scanJson(view, limits);
  return walkTree(parse(view.toString('utf8')), 'list', limits);
}

function parse(text: string): unknown {
  if (text.trim() === '') throw new WireError('malformed-body', '', 'The body is empty.');
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const hint = /^Unexpected token '[NI]'/.test(reason) ? ' JSON has no NaN and no Infinity.' : '';
    throw new WireError('malformed-body', '', `The body is not valid JSON: ${reason}.${hint}`);
  }
}

/**
 * Writes an answer, tensors in kind: 'list' as nested lists, 'tensor' and 'numpy' as
 * {dtype, shape, data: base64}. NaN and infinity become null.
 */
export function encodeJson(answer: object, dialect: Dialect): Buffer {
  const text = JSON.stringify(
    renderAnswer(answer, (tensor) => (dialect === 'list' ? nestedList(tensor) : base64Map(tensor))),
  );
  return Buffer.from(text);
}

function base64Map({ dtype, shape, bytes }: EncodedTensor): unknown {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { dtype, shape, data: view.toString('base64') };
}

function nestedList(tensor: EncodedTensor): unknown {
  const data = widenEncoded(tensor);
  const leaf = data instanceof Float32Array ? shortest32 : (value: number) => value;
  let next = 0;
  const list = (dimension: number): unknown => {
    if (dimension === tensor.shape.length) return leaf(data[next++]);
    return Array.from({ length: tensor.shape[dimension] }, () => list(dimension + 1));
  };
  return list(0);
}

/** A float64 of 6 to 9 digits that rounds to this float32: 0.1, not 0.10000000149011612. */
function shortest32(value: number): number {
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return Number(value.toPrecision(9));
}
