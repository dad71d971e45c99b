/** Bodies that are refused, with the kind, the pointer and a part of the sentence. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeJson } from '../../src/wire/json.js';
import { decodeMsgpack } from '../../src/wire/msgpack.js';
import type { WireErrorKind } from '../../src/wire/tree/wire-error.js';
import { DEFAULT_WIRE_LIMITS as LIMITS } from '../../src/wire/tree/wire-limits.js';
import { refusal } from './arbitraries.js';

type Row = [body: string, kind: WireErrorKind, pointer: string, sentence: RegExp];

const deep = (open: string, close: string) => open.repeat(17) + close.repeat(17);
const tensor = (dtype: string, shape: string, data: string) =>
  `{"x":{"dtype":${dtype},"shape":${shape},"data":${data}}}`;
const F = '"float32"';
const ONE = '"AAAAAA=="';

const JSON_ROWS: Row[] = [
  ['', 'malformed-body', '', /is empty/],
  ['{"a":', 'malformed-body', '', /not valid JSON/],
  ['{} {}', 'malformed-body', '', /not valid JSON/],
  ['"\\', 'malformed-body', '', /not valid JSON/],
  ['{"a":"\\q"}', 'malformed-body', '', /not valid JSON/],
  ['[[1,2],[3]]', 'invalid-tensor', '/1', /1 entries where .* 2; .* ragged/],
  ['[[1,2],[3,4,5]]', 'invalid-tensor', '/1', /3 entries/],
  ['{"q":{"w":[1,"2"]}}', 'invalid-tensor', '/q/w/1', /a string where/],
  ['{"w":[1,null]}', 'invalid-tensor', '/w/1', /null where/],
  ['{"w":[1,true]}', 'invalid-tensor', '/w/1', /a boolean where/],
  ['{"w":[1,[2]]}', 'invalid-tensor', '/w/1', /a list where .* a number/],
  ['{"w":[[1],2]}', 'invalid-tensor', '/w/1', /a number where .* a list/],
  ['{"w":[[1],{}]}', 'invalid-tensor', '/w/1', /a map where .* a list/],
  ['[[[[[[[[[1]]]]]]]]]', 'invalid-tensor', '', /nested 9 deep/],
  ['{"a":1,"a":1}', 'invalid-value', '/a', /"a" stands twice/],
  ['{"b":[{},{"a":1,"\\u0061":1}]}', 'invalid-value', '/b/1/a', /stands twice/],
  ['{"a/b~":{"x":1e999}}', 'invalid-value', '/a~1b~0/x', /Infinity/],
  [deep('[', ']'), 'limit-exceeded', '/0'.repeat(16), /17 levels/],
  [deep('{"a":', '}').replace(':}', ':1}'), 'limit-exceeded', '/a'.repeat(16), /17 levels/],
  [`{"${'k'.repeat(257)}":1}`, 'limit-exceeded', '', /257 bytes in one map key/],
  [`{"s":"${'s'.repeat(65537)}"}`, 'limit-exceeded', '/s', /65537 bytes/],
  [`[${'{},'.repeat(1024)}{}]`, 'limit-exceeded', '/1024', /1025 maps/],
  [`[${'0,'.repeat(1_000_000)}0]`, 'limit-exceeded', '/1000000', /1000001 array elements/],
  [`[${'[0],'.repeat(65_535)}[0]]`, 'limit-exceeded', '/65535', /65537 arrays/],
  [`["a",["a"${',"a"'.repeat(1022)}]]`, 'limit-exceeded', '/1', /1025 entries that are no numbers/],
  [`[${'"a",[0],'.repeat(65)}1]`, 'limit-exceeded', '/129', /more tensors .* 64/],
  [tensor('">f4"', '[1]', ONE), 'invalid-tensor', '/x/dtype', /big endian/],
  [tensor('"int4"', '[1]', ONE), 'invalid-tensor', '/x/dtype', /"int4"; accepted are float32/],
  [tensor('"torch.F32"', '[1]', ONE), 'invalid-tensor', '/x/dtype', /accepted are/],
  [tensor('4', '[1]', ONE), 'invalid-tensor', '/x/dtype', /element type 4/],
  [tensor(F, '1', ONE), 'invalid-tensor', '/x/shape', /list of non-negative integers/],
  [tensor(F, '[1.5]', ONE), 'invalid-tensor', '/x/shape', /list of non-negative integers/],
  [tensor(F, '[-1]', ONE), 'invalid-tensor', '/x/shape', /list of non-negative integers/],
  [tensor(F, '["1"]', ONE), 'invalid-tensor', '/x/shape', /list of non-negative integers/],
  [tensor(F, '[2,0]', '""'), 'invalid-tensor', '/x/shape', /dimension 1 of its shape \[2, 0\]/],
  [tensor(F, '[1,1,1,1,1,1,1,1,1]', ONE), 'invalid-tensor', '/x/shape', /9 dimensions/],
  [tensor(F, '[94906267,94906267]', ONE), 'invalid-tensor', '/x/shape', /larger than any memory/],
  [tensor(F, '[2]', ONE), 'invalid-tensor', '/x/data', /4 bytes; shape \[2\] in float32 takes 8/],
  [tensor(F, '[1]', '"AAAAA=="'), 'invalid-tensor', '/x/data', /not padded base64/],
  [tensor(F, '[1]', '"AA!AAA=="'), 'invalid-tensor', '/x/data', /not padded base64/],
  [tensor(F, '[1]', '"AA==AA=="'), 'invalid-tensor', '/x/data', /not padded base64/],
  [tensor(F, '[1]', '[0]'), 'invalid-tensor', '/x/data', /must be base64/],
  ['{"x":{"dtype":"F32","data":""}}', 'invalid-tensor', '/x', /has no "shape"/],
  ['{"x":{"shape":[1]}}', 'invalid-tensor', '/x', /has no "dtype"/],
  [tensor(F, '[1]', `${ONE},"y":1`), 'invalid-tensor', '/x/y', /unknown key "y"/],
  ['{"x":{"nd":1,"type":"<f4"}}', 'invalid-tensor', '/x/nd', /neither true nor false/],
];

const MSGPACK_ROWS: Row[] = [
  ['', 'malformed-body', '', /ends in the middle/],
  ['c1', 'malformed-body', '', /never uses/],
  ['8000', 'malformed-body', '', /1 bytes, and then 1 more/],
  ['81a161', 'malformed-body', '/a', /ends in the middle/],
  ['81a161cd00', 'malformed-body', '/a', /ends in the middle/],
  ['81a161c40500', 'malformed-body', '/a', /needs at least 5 more bytes/],
  ['dd000f4240', 'malformed-body', '', /needs at least 1000000/],
  ['ddffffffff', 'limit-exceeded', '', /4294967295 array elements/],
  ['dfffffffff', 'limit-exceeded', '', /4294967295 map entries/],
  ['dbffffffff', 'limit-exceeded', '', /4294967295 bytes in one string.*use_bin_type=True/],
  [`${'91'.repeat(17)}00`, 'limit-exceeded', '/0'.repeat(16), /17 levels/],
  ['81a161a2c3a9a161', 'malformed-body', '', /more/],
  ['81a161a1ff', 'malformed-body', '/a', /not UTF-8/],
  ['81a161a2c328', 'malformed-body', '/a', /not UTF-8/],
  ['82a16101a16102', 'invalid-value', '/a', /"a" stands twice/],
  ['82a16101c4016102', 'invalid-value', '/a', /"a" stands twice/],
  ['810102', 'invalid-value', '', /not a string/],
  ['818001', 'invalid-value', '', /not a string/],
  ['81c0c0', 'invalid-value', '', /not a string/],
  ['81c4016101', 'invalid-value', '', /"a" at the body is bytes/],
  ['81a161c40101', 'invalid-value', '/a', /raw bytes/],
  ['81a161d6ff00000000', 'invalid-value', '/a', /type -1 \(timestamp\)/],
  ['81a161d47200', 'invalid-value', '/a', /type 114 \(record\)/],
  ['81a161c7037300', 'invalid-value', '/a', /type 115 \(set\)/],
  ['81a161c8000378', 'invalid-value', '/a', /regular expression/],
  ['81a161c90000000365', 'invalid-value', '/a', /error/],
  ['9201d8059900', 'invalid-value', '/1', /type 5;/],
  ['81a161cb7ff8000000000000', 'invalid-value', '/a', /NaN/],
  [`dc0081${'c400'.repeat(129)}`, 'limit-exceeded', '/128', /65 tensors/],
  [
    '83a56474797065a3463332a573686170659101a464617461a141',
    'invalid-tensor',
    '/data',
    /must be bytes.*use_bin_type=True/,
  ],
];

const FORMATS = [
  { format: 'JSON', rows: JSON_ROWS, encoding: 'utf8', decode: decodeJson },
  { format: 'msgpack', rows: MSGPACK_ROWS, encoding: 'hex', decode: decodeMsgpack },
] as const;

for (const { format, rows, encoding, decode } of FORMATS) {
  for (const [body, kind, pointer, sentence] of rows) {
    test(`${format} ${body.length > 60 ? `${body.slice(0, 57)}...` : body}`, () => {
      const error = refusal(() => decode(Buffer.from(body, encoding), LIMITS));
      assert.deepEqual([error.kind, error.pointer], [kind, pointer], error.message);
      assert.match(error.message, sentence);
    });
  }
}

test('JSON that is not UTF-8', () => {
  const error = refusal(() => decodeJson(Buffer.from([0x22, 0xff, 0x22]), LIMITS));
  assert.equal(error.kind, 'malformed-body');
});

test('a limit is reported with what was found', () => {
  const limits = { ...LIMITS, maxDepth: 2 };
  const error = refusal(() => decodeJson(Buffer.from('{"a":{"b":{}}}'), limits));
  assert.deepEqual([error.limit, error.actual, error.pointer], [2, 3, '/a/b']);
});
