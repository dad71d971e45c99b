/**
 * A strict look over MessagePack bytes before the decoder sees them.
 *
 * The decoder allocates as it reads, turns extension types into dates, sets and errors, and builds a
 * message from the whole value when a byte follows it. So this pass, which allocates nothing per
 * element, settles first that the bytes are exactly one value made of nil, booleans, numbers, strings,
 * bytes, arrays and maps, within the limits, with no key twice in a map.
 */
import { isUtf8 } from 'node:buffer';
import { ScanState } from './scan-state.js';
import { PACK_AS_BIN, placeName, WireError } from './tree/wire-error.js';
import type { WireLimits } from './tree/wire-limits.js';

const EXTENSION_NAMES = new Map([
  [-1, 'timestamp'],
  [0x62, 'bundled strings'],
  [0x65, 'error'],
  [0x69, 'cyclic reference'],
  [0x70, 'cyclic reference'],
  [0x72, 'record'],
  [0x73, 'set'],
  [0x74, 'typed array'],
  [0x78, 'regular expression'],
]);

class Scanner {
  readonly body: Uint8Array;
  readonly view: DataView;
  readonly state: ScanState;
  position = 0;
  bins = 0;
  /** Per level: elements or entries still to come, and whether it is a map. */
  readonly remaining: number[] = [];
  readonly total: number[] = [];

  constructor(body: Uint8Array, limits: WireLimits) {
    this.body = body;
    this.view = new DataView(body.buffer, body.byteOffset, body.byteLength);
    this.state = new ScanState(limits);
  }

  run(): void {
    const { state } = this;
    this.value();
    while (state.depth > 0) {
      const level = state.depth - 1;
      if (this.remaining[level] === 0) {
        state.leave();
        continue;
      }
      this.remaining[level] -= 1;
      if (state.inMap()) this.mapKey();
      else state.atElement(this.total[level] - this.remaining[level] - 1);
      this.value();
    }
    if (this.position < this.body.length) {
      throw new WireError(
        'malformed-body',
        '',
        `The body holds one MessagePack value of ${this.position} bytes, and then ${this.body.length - this.position} more; one value must fill the body.`,
        { limit: this.position, actual: this.body.length },
      );
    }
  }

  /** Steps over one value; of an array or a map, over its header only. */
  private value(): void {
    const token = this.take(1);
    if (token < 0x80 || token >= 0xe0) return;
    if (token < 0x90) this.open('map', token & 0x0f);
    else if (token < 0xa0) this.open('array', token & 0x0f);
    else if (token < 0xc0) this.string(token & 0x1f);
    else this.marked(token);
  }

  private marked(token: number): void {
    switch (token) {
      case 0xc0: // nil
      case 0xc2: // false
      case 0xc3: // true
        break;
      case 0xc1:
        throw new WireError(
          'malformed-body',
          this.state.pointer(),
          `Byte ${this.position - 1} of the body is 0xc1, which MessagePack never uses.`,
        );
      case 0xc4:
        this.bytes(this.take(1));
        break;
      case 0xc5:
        this.bytes(this.take(2));
        break;
      case 0xc6:
        this.bytes(this.take(4));
        break;
      case 0xcc: // uint 8
      case 0xd0: // int 8
        this.skip(1);
        break;
      case 0xcd: // uint 16
      case 0xd1: // int 16
        this.skip(2);
        break;
      case 0xca: // float 32
      case 0xce: // uint 32
      case 0xd2: // int 32
        this.skip(4);
        break;
      case 0xcb: // float 64
      case 0xcf: // uint 64
      case 0xd3: // int 64
        this.skip(8);
        break;
      case 0xd9:
        this.string(this.take(1));
        break;
      case 0xda:
        this.string(this.take(2));
        break;
      case 0xdb:
        this.string(this.take(4));
        break;
      case 0xdc:
        this.open('array', this.take(2));
        break;
      case 0xdd:
        this.open('array', this.take(4));
        break;
      case 0xde:
        this.open('map', this.take(2));
        break;
      case 0xdf:
        this.open('map', this.take(4));
        break;
      default:
        this.extension(token);
    }
  }

  /** A key: a string, or bytes as msgpack-numpy writes them. Both spellings of a name are one key. */
  private mapKey(): void {
    const at = this.position;
    const token = this.take(1);
    let length: number;
    if (token >= 0xa0 && token < 0xc0) length = token & 0x1f;
    else if (token === 0xd9 || token === 0xc4) length = this.take(1);
    else if (token === 0xda || token === 0xc5) length = this.take(2);
    else if (token === 0xdb || token === 0xc6) length = this.take(4);
    else {
      throw new WireError(
        'invalid-value',
        this.state.pointer(),
        `A map key at byte ${at} is not a string; keys must be strings.`,
      );
    }
    this.state.checkKeyLength(length);
    const start = this.position;
    this.skip(length);
    this.checkUtf8(start);
    const { body } = this;
    this.state.atKey(Buffer.from(body.buffer, body.byteOffset + start, length).toString('utf8'));
  }

  private open(kind: 'map' | 'array', length: number): void {
    const { state } = this;
    if (kind === 'map') state.countKeys(length);
    else state.countElements(length);
    // Each entry takes at least one byte (two in a map): a header that promises more lies.
    const least = kind === 'map' ? 2 * length : length;
    if (least > this.body.length - this.position) this.truncated(least);
    this.remaining[state.depth] = length;
    this.total[state.depth] = length;
    state.enter(kind);
  }

  private string(length: number): void {
    this.state.checkStringLength(length, PACK_AS_BIN);
    const start = this.position;
    this.skip(length);
    this.checkUtf8(start);
  }

  private bytes(length: number): void {
    this.bins += 1;
    // A msgpack-numpy array holds two: its data and its kind, which is empty for plain numbers.
    if (this.bins > 2 * this.state.limits.maxTensors) {
      this.state.exceeded('maxTensors', Math.ceil(this.bins / 2), 'tensors');
    }
    this.skip(length);
  }

  private extension(token: number): never {
    const lengthBytes = token === 0xc7 ? 1 : token === 0xc8 ? 2 : token === 0xc9 ? 4 : 0;
    if (lengthBytes > 0) this.take(lengthBytes as 1 | 2 | 4);
    const type = (this.take(1) << 24) >> 24;
    const name = EXTENSION_NAMES.get(type);
    const pointer = this.state.pointer();
    throw new WireError(
      'invalid-value',
      pointer,
      `The value at ${placeName(pointer)} is a MessagePack extension of type ${type}${name ? ` (${name})` : ''}; only nil, booleans, numbers, strings, bytes, arrays and maps are read.`,
    );
  }

  /** Steps over an unsigned big-endian number of 1, 2 or 4 bytes and returns it. */
  private take(size: 1 | 2 | 4): number {
    const at = this.position;
    if (size > this.body.length - at) this.truncated(size);
    this.position += size;
    if (size === 1) return this.body[at];
    return size === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }

  private skip(length: number): void {
    if (length > this.body.length - this.position) this.truncated(length);
    this.position += length;
  }

  private truncated(wanted: number): never {
    const pointer = this.state.pointer();
    throw new WireError(
      'malformed-body',
      pointer,
      `The body ends in the middle of a value: ${placeName(pointer)} needs at least ${wanted} more bytes at byte ${this.position}, and the body has ${this.body.length}.`,
      { actual: this.body.length },
    );
  }

  private checkUtf8(start: number): void {
    const { body, position } = this;
    let at = start;
    while (at < position && body[at] < 0x80) at += 1;
    if (at === position || isUtf8(body.subarray(at, position))) return;
    throw new WireError(
      'malformed-body',
      this.state.pointer(),
      `The string at byte ${start} of the body is not UTF-8; ${PACK_AS_BIN}.`,
    );
  }
}

/**
 * Throws WireError unless `body` is exactly one MessagePack value that a request may hold.
 * Time is linear in the bytes of strings and in the number of values; the bytes of tensors are skipped.
 */
export function scanMsgpack(body: Uint8Array, limits: WireLimits): void {
  new Scanner(body, limits).run();
}
