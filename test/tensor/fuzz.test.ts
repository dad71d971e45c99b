/** Hostile bodies: nothing but a WireError comes out, for work in proportion to the body. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Packr } from 'msgpackr/pack';
import { Unpackr } from 'msgpackr/unpack';
import { decodeJson, encodeJson } from '../../src/wire/json.js';
import { decodeMsgpack, encodeMsgpack } from '../../src/wire/msgpack.js';
import { scanMsgpack } from '../../src/wire/msgpack-scan.js';
import { WireError } from '../../src/wire/tree/wire-error.js';
import { DEFAULT_WIRE_LIMITS as LIMITS } from '../../src/wire/tree/wire-limits.js';
import { asSharedBody, check, refusal, trees } from './arbitraries.js';

const FORMATS = {
  msgpack: { encode: encodeMsgpack, decode: decodeMsgpack },
  json: { encode: encodeJson, decode: decodeJson },
};

/** Seconds of CPU that `run` takes: other processes do not count, as they do on a clock. */
function cpuSeconds(run: () => unknown): number {
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

/** 64 MiB take a tenth of that; what grows faster than the body took 30 s and more. */
const LINEAR_SECONDS = 5;

/** Decodes; a WireError is an answer, any other error is a failure. */
function attempt(decode: typeof decodeMsgpack, body: Buffer): void {
  try {
    decode(body, LIMITS);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
  }
}

/** Change, cut out, insert or double some bytes of a body. */
const edits = fc.array(
  fc.record({
    at: fc.nat(),
    kind: fc.constantFrom('change', 'cut', 'insert', 'double', 'truncate'),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 6 }),
  }),
  { minLength: 1, maxLength: 4 },
);

function edit(
  body: Uint8Array,
  changes: readonly { at: number; kind: string; bytes: Uint8Array }[],
) {
  return changes.reduce<Buffer>((before, { at, kind, bytes }) => {
    const start = before.length === 0 ? 0 : at % before.length;
    const [head, tail] = [before.subarray(0, start), before.subarray(start)];
    if (kind === 'change') return Buffer.concat([head, bytes, tail.subarray(bytes.length)]);
    if (kind === 'cut') return Buffer.concat([head, tail.subarray(bytes.length)]);
    if (kind === 'insert') return Buffer.concat([head, bytes, tail]);
    if (kind === 'double') return Buffer.concat([head, tail.subarray(0, 40), tail]);
    return Buffer.from(head);
  }, Buffer.from(body));
}

for (const [format, { encode, decode }] of Object.entries(FORMATS)) {
  test(`damaged ${format} is refused with a WireError or read, in linear time`, () => {
    const dialects = fc.constantFrom('tensor' as const, 'numpy' as const, 'list' as const);
    const property = fc.property(trees, dialects, edits, (tree, dialect, changes) => {
      const body = asSharedBody(edit(encode(tree as object, dialect), changes));
      assert.ok(cpuSeconds(() => attempt(decode, body)) < LINEAR_SECONDS);
    });
    check(property, 3000);
  });

  test(`random bytes as ${format}`, () => {
    const property = fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      attempt(decode, asSharedBody(bytes));
    });
    check(property, 3000);
  });
}

test('what the scanner accepts, the decoder reads to the end', () => {
  const settings = { useRecords: false, mapsAsObjects: false, int64AsType: 'number' } as const;
  const reader = new Unpackr(settings);
  const property = fc.property(trees, edits, (tree, changes) => {
    const body = edit(encodeMsgpack(tree as object, 'tensor'), changes);
    try {
      scanMsgpack(body, LIMITS);
    } catch {
      return;
    }
    assert.equal(reader.unpackMultiple(body).length, 1);
  });
  check(property, 3000);
});

test('integers that msgpackr uses as record ids are integers', () => {
  // The encoder under test has records switched off; another one with records must not leak into it.
  new Packr({ useRecords: true }).pack([{ a: 1 }, { a: 2 }]);
  for (let id = 0; id < 0x80; id++) {
    const body = Buffer.from([0x92, 0xa1, 0x78, id]);
    assert.deepEqual(decodeMsgpack(body, LIMITS).value, ['x', id]);
  }
});

const MIB = 1 << 20;

/** A header, and a pattern repeated to fill the rest; shared memory, as in the service. */
function filled(
  size: number,
  header: readonly number[] | string,
  pattern: readonly number[] | string,
) {
  const body = Buffer.from(new SharedArrayBuffer(size));
  const start = Buffer.from(header as string);
  body.set(start);
  body.fill(Buffer.from(pattern as string), start.length);
  return body;
}

const ARRAY_OF_MANY = [0xdd, 0x00, 0x0f, 0x42, 0x40];
const LONG_STRING = [0xda, 0x00, 0x43, ...Buffer.from('é'.repeat(33)), 0x78];

/** Headers that promise as much as the limits allow, or more, and bodies that keep the promise. */
const HUGE: [name: string, body: Buffer, decode: typeof decodeMsgpack, refused: RegExp | null][] = [
  [
    '16 MiB of empty arrays',
    filled(16 * MIB, [0xdd, 0x00, 0xff, 0xff, 0xfb], [0x90]),
    decodeMsgpack,
    /16777211 array elements/,
  ],
  ['64 MiB of nested arrays', filled(64 * MIB, [], [0x91]), decodeMsgpack, /17 levels/],
  [
    '64 MiB of small arrays',
    filled(64 * MIB, [0xdd, 0x00, 0x0f, 0x00, 0x00], [0x91, 0x90]),
    decodeMsgpack,
    /1000001 array elements/,
  ],
  [
    '64 MiB of one string',
    filled(64 * MIB, [0xdb, 0x03, 0xff, 0xff, 0xfb], [0x61]),
    decodeMsgpack,
    /bytes in one string/,
  ],
  [
    '64 MiB of strings',
    filled(64 * MIB, ARRAY_OF_MANY, LONG_STRING),
    decodeMsgpack,
    /ends in the middle/,
  ],
  [
    '1,000,000 empty arrays',
    filled(1_000_005, ARRAY_OF_MANY, [0x90]),
    decodeMsgpack,
    /65537 arrays/,
  ],
  [
    '1,000,000 booleans',
    filled(1_000_005, ARRAY_OF_MANY, [0xc3]),
    decodeMsgpack,
    /1000000 entries that are no numbers/,
  ],
  [
    '1,000,000 numbers',
    filled(5_000_005, ARRAY_OF_MANY, [0xca, 0x3f, 0x80, 0, 0]),
    decodeMsgpack,
    null,
  ],
  ['64 MiB after the value', filled(64 * MIB, [0x90], [0x90]), decodeMsgpack, /67108863 more/],
  ['64 MiB of maps', filled(64 * MIB, ARRAY_OF_MANY, [0x80]), decodeMsgpack, /1025 maps/],
  ['64 MiB of bytes', filled(64 * MIB, ARRAY_OF_MANY, [0xc4, 0x00]), decodeMsgpack, /65 tensors/],
  ['16 MiB of empty JSON arrays', filled(16 * MIB, '[', '[],'), decodeJson, /65537 arrays/],
  ['16 MiB of open brackets', filled(16 * MIB, '', '['), decodeJson, /17 levels/],
  ['16 MiB of closing brackets', filled(16 * MIB, '[]', ']'), decodeJson, /not valid JSON/],
  ['16 MiB of escaped quotes', filled(16 * MIB, '"', '\\"'), decodeJson, /not valid JSON/],
  ['16 MiB of commas', filled(16 * MIB, '[', ','), decodeJson, /not valid JSON/],
  ['16 MiB of spaces', filled(16 * MIB, '', ' '), decodeJson, /body is empty/],
  [
    '16 MiB of one JSON string',
    filled(16 * MIB, '"é', 'a').fill('"', 16 * MIB - 1),
    decodeJson,
    /bytes/,
  ],
];

for (const [name, body, decode, refused] of HUGE) {
  test(`${name}: in linear time`, (context) => {
    const before = process.memoryUsage().heapUsed;
    const seconds = cpuSeconds(() => {
      if (refused === null) decode(body, LIMITS);
      else assert.match(refusal(() => decode(body, LIMITS)).message, refused);
    });
    const heap = process.memoryUsage().heapUsed - before;
    context.diagnostic(`${seconds.toFixed(2)} s, ${(heap / MIB).toFixed(1)} MiB of heap`);
    assert.ok(seconds < LINEAR_SECONDS, `${seconds} s of CPU`);
  });
}
