/** The bytes of one tensor in a body, and the refusals that go with them. */
import {
  appendPointer,
  PACK_AS_BIN,
  placeName,
  WireError,
  type WireErrorFigures,
} from './wire-error.js';

/** A view of the body, not a copy. */
export function readBytes(data: unknown, pointer: string): Uint8Array {
  if (data instanceof Uint8Array) return data;
  throw refuse(
    appendPointer(pointer, 'data'),
    `The data of the tensor at ${placeName(pointer)} must be bytes (MessagePack bin); ${PACK_AS_BIN}.`,
  );
}

/** Into shared memory of its own. Strict: an alphabet of 64 characters, padded to a multiple of four. */
export function readBase64(data: unknown, pointer: string): Uint8Array {
  const place = appendPointer(pointer, 'data');
  if (typeof data !== 'string') {
    throw refuse(place, `The data of the tensor at ${placeName(pointer)} must be base64 text.`);
  }
  const padding = data.endsWith('==') ? 2 : data.endsWith('=') ? 1 : 0;
  const length = Math.max(0, Math.floor(data.length / 4) * 3 - padding);
  const bytes = Buffer.from(new SharedArrayBuffer(length));
  // The decoder skips or stops at what is not base64, and so falls short of the length.
  if (data.length % 4 !== 0 || bytes.write(data, 'base64') !== length) {
    throw refuse(
      place,
      `The data of the tensor at ${placeName(pointer)} is not padded base64 text.`,
    );
  }
  return bytes;
}

export function checkLength(actual: number, expected: number, what: string, pointer: string): void {
  if (actual === expected) return;
  throw refuse(
    appendPointer(pointer, 'data'),
    `The data of the tensor at ${placeName(pointer)} has ${actual} bytes; ${what} takes ${expected}.`,
    { limit: expected, actual },
  );
}

export function refuse(
  pointer: string,
  message: string,
  figures: WireErrorFigures = {},
): WireError {
  return new WireError('invalid-tensor', pointer, message, figures);
}
