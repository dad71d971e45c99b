/** What a client can get wrong in the bytes of a body, apart from what the tensors mean. */
export type WireErrorKind =
  /** Not MessagePack or not JSON: truncated, trailing bytes, invalid UTF-8, bad syntax. */
  | 'malformed-body'
  /** Well formed, but of a type or value that no request can hold: extension, duplicate key, NaN. */
  | 'invalid-value'
  /** A tensor that cannot be read: dtype, shape, byte order, length, ragged list. */
  | 'invalid-tensor'
  /** Deeper, longer or more of something than the limits allow. */
  | 'limit-exceeded';

export interface WireErrorFigures {
  readonly limit?: number;
  readonly actual?: number;
}

/** `message` is one human sentence that can be shown to the client as it is. */
export class WireError extends Error {
  override readonly name = 'WireError';
  readonly kind: WireErrorKind;
  /** RFC 6901 JSON pointer into the body; '' is the whole body. */
  readonly pointer: string;
  readonly limit?: number;
  readonly actual?: number;

  constructor(
    kind: WireErrorKind,
    pointer: string,
    message: string,
    figures: WireErrorFigures = {},
  ) {
    super(message);
    this.kind = kind;
    this.pointer = pointer;
    if (figures.limit !== undefined) this.limit = figures.limit;
    if (figures.actual !== undefined) this.actual = figures.actual;
  }
}

/** One more reference token on a JSON pointer, escaped as RFC 6901 wants it. */
export function appendPointer(pointer: string, token: string | number): string {
  const text = String(token);
  return `${pointer}/${/[~/]/.test(text) ? text.replaceAll('~', '~0').replaceAll('/', '~1') : text}`;
}

/** How a message names a place: the pointer, or "the body" for the root. */
export function placeName(pointer: string): string {
  return pointer === '' ? 'the body' : pointer;
}

/** What to tell a client whose packer writes bytes as strings: the old MessagePack had no type for them. */
export const PACK_AS_BIN = 'bytes must be packed as bin (in Python, use_bin_type=True)';
