/**
 * A look over JSON bytes before JSON.parse, which keeps the last of two equal keys in silence and
 * allocates without limit. Syntax is left to the parser: this pass only tracks strings, brackets,
 * commas and keys, counts them, and never fails on text that is not JSON.
 */
import { ScanState } from './scan-state.js';
import type { WireLimits } from './tree/wire-limits.js';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;

/** Throws WireError for a limit that is exceeded and for a key that stands twice in an object. */
export function scanJson(body: Buffer, limits: WireLimits): void {
  const state = new ScanState(limits);
  /** Of each open object: the next string is a key. Of each open array: an element has begun. */
  const begun: boolean[] = [];
  let position = 0;
  while (position < body.length) {
    const byte = body[position++];
    if (byte <= 0x20 || byte === COLON) continue;
    if (byte === 0x5d || byte === 0x7d) {
      // After the end of the root, and at an end without a beginning, it is for the parser to complain.
      if (state.depth <= 1) return;
      state.leave();
      continue;
    }
    if (byte === COMMA) {
      begun[state.depth] = false;
      continue;
    }
    if (state.depth > 0 && !begun[state.depth]) {
      begun[state.depth] = true;
      if (!state.inMap()) {
        state.nextElement();
        state.countElements(1);
      } else if (byte === QUOTE) {
        const end = stringEnd(body, position);
        state.countKeys(1);
        state.checkKeyLength(end - position);
        state.atKey(keyText(body, position, end));
        position = end + 1;
        continue;
      }
    }
    if (byte === QUOTE) position = stringEnd(body, position) + 1;
    else if (byte === 0x5b || byte === 0x7b) {
      state.enter(byte === 0x5b ? 'array' : 'map');
      begun[state.depth] = false;
    }
  }
}

/** Position of the quote that ends the string at `start`, or the end of the body. */
function stringEnd(body: Buffer, start: number): number {
  let at = start;
  while (at < body.length && body[at] !== QUOTE) at += body[at] === BACKSLASH ? 2 : 1;
  return Math.min(at, body.length);
}

/** Two spellings of a key are the same key: escapes are read, where they can be. */
function keyText(body: Buffer, start: number, end: number): string {
  const raw = body.toString('utf8', start, end);
  if (!raw.includes('\\')) return raw;
  try {
    return JSON.parse(`"${raw}"`);
  } catch {
    return raw;
  }
}
