import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ProblemDetails } from '../../src/errors.js';
import type { ProblemKind } from '../../src/problem-kinds.js';
import { sharedServer } from '../support/processes/server.js';
import { type Body, pack, spoilt, tensor, validBody } from '../support/wire/bodies.js';

const MSGPACK = 'application/vnd.msgpack';
const JSON_TYPE = 'application/json';
const MIB = 1024 * 1024;

const server = await sharedServer({ LORAGRAD_MAX_BODY_BYTES: String(17 * MIB) });

interface Case {
  readonly body: Uint8Array;
  readonly kind: ProblemKind;
  readonly pointer?: string;
  readonly type?: string;
  /** Something that the detail must say. */
  readonly says?: RegExp;
}

const map = (
  change: (body: Body) => void,
  kind: ProblemKind,
  pointer: string,
  says?: RegExp,
): Case => ({
  body: pack(spoilt(change)),
  kind,
  pointer,
  ...(says && { says }),
});
const json = (text: string, kind: ProblemKind, pointer?: string, says?: RegExp): Case => ({
  body: Buffer.from(text),
  type: JSON_TYPE,
  kind,
  ...(pointer !== undefined && { pointer }),
  ...(says && { says }),
});
const bytes = (hex: string, kind: ProblemKind): Case => ({ body: Buffer.from(hex, 'hex'), kind });
const good = pack(validBody());
const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
const jsonBody = (change: (body: Body) => void) => {
  const body: Body = {
    hidden_states: [[1, 2]],
    q_proj: { weight: [[1, 2]], lora_A: [[1, 2]], lora_B: [[1]] },
    k_proj: { weight: [[1, 2]] },
    v_proj: { weight: [[1, 2]] },
    target: [[1]],
  };
  change(body);
  return JSON.stringify(body);
};
const set = (path: string, value: unknown) => (body: Body) => {
  const keys = path.split('.');
  const last = keys.pop() as string;
  let at = body;
  for (const key of keys) at = at[key];
  if (value === undefined) delete at[last];
  else at[last] = value;
};
const numpy = (type: unknown, shape: unknown, data: Buffer, kind: unknown = Buffer.alloc(0)) =>
  new Map<unknown, unknown>([
    [Buffer.from('nd'), true],
    [Buffer.from('type'), type],
    [Buffer.from('kind'), kind],
    [Buffer.from('shape'), shape],
    [Buffer.from('data'), data],
  ]);
const rotary = (cos: number[], sin: number[]) => (body: Body) => {
  body.cos = tensor(cos);
  body.sin = tensor(sin);
};
const X = '/hidden_states';

const CASES: Record<string, Case> = {
  // Bytes that are no MessagePack, or too much of it.
  'empty body': { body: Buffer.alloc(0), kind: 'malformed-body' },
  'truncated after one byte': { body: good.subarray(0, 1), kind: 'malformed-body' },
  'truncated in the middle': { body: good.subarray(0, good.length >> 1), kind: 'malformed-body' },
  'last byte missing': { body: good.subarray(0, -1), kind: 'malformed-body' },
  'one byte too many': { body: Buffer.concat([good, Buffer.from([0])]), kind: 'malformed-body' },
  'two bodies': { body: Buffer.concat([good, good]), kind: 'malformed-body' },
  'one byte after 8 MiB of valid body': {
    body: Buffer.concat([pack(spoilt(set('extra', Buffer.alloc(8 * MIB)))), Buffer.from([0xc0])]),
    kind: 'malformed-body',
  },
  'the byte that MessagePack never uses': bytes('c1', 'malformed-body'),
  'an array, not a map': { body: pack(['hidden_states']), kind: 'invalid-value', pointer: '' },
  'a number, not a map': { body: pack(7), kind: 'invalid-value', pointer: '' },
  nil: bytes('c0', 'invalid-value'),
  'a map header that announces 4 billion keys': bytes('dfffffffff', 'limit-exceeded'),
  'an array header that announces 4 billion elements': bytes('81a161ddffffffff', 'limit-exceeded'),
  'a bin header that announces 4 GiB': bytes('81a161c6ffffffff00', 'malformed-body'),
  'a string header that announces 4 GiB': bytes('81a161dbffffffff61', 'limit-exceeded'),
  '16 MiB of empty arrays': {
    body: Buffer.concat([Buffer.from('81a161dd01000000', 'hex'), Buffer.alloc(16 * MIB, 0x90)]),
    kind: 'limit-exceeded',
  },
  'a million nested arrays': { body: Buffer.alloc(1_000_000, 0x91), kind: 'limit-exceeded' },
  'a million nested maps': {
    body: Buffer.concat(Array<Buffer>(1_000_000).fill(Buffer.from('81a161', 'hex'))),
    kind: 'limit-exceeded',
  },
  'a timestamp extension': bytes('81a173d6ff00000000', 'invalid-value'),
  'a private extension': bytes('81a173d40101', 'invalid-value'),
  'a record definition of msgpackr': bytes('81a173d4727281a16101', 'invalid-value'),
  'invalid UTF-8 in a key': bytes('81a2c3280a', 'malformed-body'),
  'an integer key': { body: pack(new Map([[1, 2]])), kind: 'invalid-value' },
  'the same key twice': bytes('82a47365656400a47365656401', 'invalid-value'),
  '__proto__ as a key': {
    body: pack(new Map<string, unknown>([['__proto__', { polluted: true }]])),
    kind: 'unknown-key',
    pointer: '/__proto__',
  },
  'constructor as a key of a projection': map(
    (body) => {
      body.q_proj = new Map(Object.entries({ ...body.q_proj, constructor: 1 }));
    },
    'unknown-key',
    '/q_proj/constructor',
  ),
  'an integer beyond 2^53': map(set('seed', 2n ** 60n), 'invalid-value', '/seed'),

  // JSON.
  'not JSON': json('{hidden_states: 1}', 'malformed-body'),
  'JSON cut short': json('{"hidden_states": [[1, 2]', 'malformed-body'),
  'JSON and a trailing brace': json(`${jsonBody(() => {})}}`, 'malformed-body'),
  'no JSON at all': json(' ', 'malformed-body', '', /is empty/),
  'NaN in JSON': json('{"hidden_states": [[NaN]]}', 'malformed-body', '', /no NaN/),
  'a list of numbers in JSON': json('[1, 2]', 'invalid-value', '', /it is a tensor/),
  'a number too large for float32': json(
    jsonBody(set('hidden_states', [[1e300, 1]])),
    'invalid-value',
    `${X}/0/0`,
    /1e\+300 .* too large for float32/,
  ),
  'an empty list': json(jsonBody(set('hidden_states', [])), 'invalid-tensor', X, /an empty list/),
  'JSON null': json('null', 'invalid-value', ''),
  'JSON nested 100,000 deep': json(`{"hidden_states": ${nested(100_000)}}`, 'limit-exceeded'),
  'JSON with __proto__': json('{"__proto__": {"polluted": 1}}', 'unknown-key', '/__proto__'),
  'a ragged list': json(jsonBody(set('hidden_states', [[1, 2], [1]])), 'invalid-tensor', `${X}/1`),
  'a string among numbers': json(
    jsonBody(set('hidden_states', [[1, 'x']])),
    'invalid-tensor',
    `${X}/0/1`,
  ),
  'null among numbers': json(
    jsonBody(set('hidden_states', [[1, null]])),
    'invalid-tensor',
    `${X}/0/1`,
  ),
  'base64 that is none': json(
    jsonBody(set('hidden_states', { dtype: 'float32', shape: [1, 2], data: '****' })),
    'invalid-tensor',
    `${X}/data`,
  ),
  'a JSON body over its limit': json(`"${'x'.repeat(2 * MIB)}"`, 'body-too-large'),
  'MessagePack called JSON': { body: good, type: JSON_TYPE, kind: 'malformed-body' },

  // Media types.
  'text/plain': { body: good, type: 'text/plain', kind: 'unsupported-media-type' },
  multipart: {
    body: good,
    type: 'multipart/form-data; boundary=x',
    kind: 'unsupported-media-type',
  },
  'a body over the limit': { body: Buffer.alloc(17 * MIB + 1), kind: 'body-too-large' },

  // Tensors.
  'one byte of data missing': map(
    (body) => {
      body.hidden_states.data = body.hidden_states.data.subarray(1);
    },
    'invalid-tensor',
    `${X}/data`,
    /64.*63|63.*64/,
  ),
  'shape larger than the data': map(
    set('hidden_states.shape', [4, 5]),
    'invalid-tensor',
    `${X}/data`,
    /80/,
  ),
  'shape with 2^53 elements': map(
    set('hidden_states.shape', [2 ** 27, 2 ** 27]),
    'invalid-tensor',
    `${X}/shape`,
  ),
  'a negative size': map(
    set('hidden_states.shape', [-4, 4]),
    'invalid-tensor',
    `${X}/shape`,
    /it is \[-4, 4\]/,
  ),
  'a size that is no integer': map(
    set('hidden_states.shape', [4.5, 4]),
    'invalid-tensor',
    `${X}/shape`,
  ),
  'a size of zero': map(set('hidden_states.shape', [0, 4]), 'invalid-tensor', `${X}/shape`),
  'shape is a number': map(set('hidden_states.shape', 16), 'invalid-tensor', `${X}/shape`),
  'nine dimensions': map(
    set('hidden_states.shape', [1, 1, 1, 1, 1, 1, 1, 4, 4]),
    'invalid-tensor',
    `${X}/shape`,
  ),
  'an unknown dtype': map(
    set('hidden_states.dtype', 'int8'),
    'invalid-tensor',
    `${X}/dtype`,
    /float32/,
  ),
  'a dtype that is element type 4': map(
    set('hidden_states.dtype', 32),
    'invalid-tensor',
    `${X}/dtype`,
  ),
  'big endian': map(
    set('hidden_states.dtype', '>f4'),
    'invalid-tensor',
    `${X}/dtype`,
    /big.endian/i,
  ),
  'no data': map(set('hidden_states.data', undefined), 'invalid-tensor', X),
  'no shape': map(set('hidden_states.shape', undefined), 'invalid-tensor', X),
  'data is a string': map(set('hidden_states.data', 'abc'), 'invalid-tensor', `${X}/data`),
  'numpy, big endian': map(
    set('hidden_states', numpy('>f4', [4, 4], Buffer.alloc(64))),
    'invalid-tensor',
    `${X}/type`,
    /big.endian/i,
  ),
  'numpy, integers': map(
    set('hidden_states', numpy('<i8', [4, 4], Buffer.alloc(128))),
    'invalid-tensor',
    `${X}/type`,
  ),
  'numpy, complex': map(
    set('hidden_states', numpy('<c8', [4, 4], Buffer.alloc(128))),
    'invalid-tensor',
    `${X}/type`,
  ),
  'numpy, structured': map(
    set('hidden_states', numpy([['a', '<f4']], [4, 4], Buffer.alloc(64), Buffer.from('V'))),
    'invalid-tensor',
    X,
  ),
  NaN: map(
    set(
      'hidden_states',
      tensor([4, 4], (k) => (k === 6 ? Number.NaN : 1)),
    ),
    'not-finite',
    X,
    /NaN at \[1, 2\] \(flat index 6/,
  ),
  'infinity in an adapter': map(
    set(
      'q_proj.lora_B',
      tensor([2, 1], (k) => (k === 1 ? Number.NEGATIVE_INFINITY : 1)),
    ),
    'not-finite',
    '/q_proj/lora_B',
    /-Infinity.*index 1/,
  ),
  'a number in place of a tensor': map(set('hidden_states', 3), 'invalid-tensor', X),
  'a map in place of a tensor': map(
    set('q_proj.weight', { a: 1 }),
    'invalid-tensor',
    '/q_proj/weight',
  ),

  // Keys and values.
  'an unknown key': map(set('learning_rate', 0.1), 'unknown-key', '/learning_rate', /Known keys/),
  'a misspelt key': map(
    set('hidden_state', tensor([4, 4])),
    'unknown-key',
    '/hidden_state',
    /did you mean hidden_states\?/,
  ),
  'a tensor in place of a projection': map(
    set('q_proj', tensor([2, 4])),
    'invalid-value',
    '/q_proj',
    /a map with the keys weight, .*; it is a tensor/,
  ),
  'a string in place of a number': map(
    set('tolerance', '0.1'),
    'invalid-value',
    '/tolerance',
    /must be a number; it is "0\.1"/,
  ),
  'an unknown key of a projection': map(
    set('q_proj.lora_dropout', 0.1),
    'unknown-key',
    '/q_proj/lora_dropout',
  ),
  'no q_proj': map(set('q_proj', undefined), 'missing-key', '', /q_proj/),
  'no weight': map(set('k_proj.weight', undefined), 'missing-key', '/k_proj', /weight/),
  'no inputs': map(set('hidden_states', undefined), 'missing-key', '', /hidden_states/),
  'no objective': map(set('target', undefined), 'missing-key', '', /target/),
  'two objectives': map(set('grad_output', tensor([4, 2])), 'conflicting-keys', '/grad_output'),
  'self- and cross-attention at once': map(
    set('key_states', tensor([4, 4])),
    'conflicting-keys',
    '/key_states',
  ),
  'queries without keys': map(
    (body) => {
      body.query_states = body.hidden_states;
      delete body.hidden_states;
    },
    'missing-key',
    '',
    /key_states/,
  ),
  'lora_A without lora_B': map(set('q_proj.lora_B', undefined), 'missing-key', '/q_proj', /lora_B/),
  'lora_alpha of a frozen projection': map(
    set('k_proj.lora_alpha', 8),
    'missing-key',
    '/k_proj/lora_alpha',
  ),
  'nothing adapted': map(
    (body) => {
      for (const name of ['q_proj', 'v_proj']) body[name] = body.k_proj;
    },
    'nothing-to-do',
    '',
  ),
  'zero heads': map(set('num_attention_heads', 0), 'invalid-value', '/num_attention_heads'),
  'half a head': map(set('num_attention_heads', 1.5), 'invalid-value', '/num_attention_heads'),
  'scaling zero': map(set('scaling', 0), 'invalid-value', '/scaling'),
  'scaling NaN': map(set('scaling', Number.NaN), 'invalid-value', '/scaling'),
  'a tolerance below zero': map(set('tolerance', -1), 'invalid-value', '/tolerance'),
  'is_causal as a string': map(set('is_causal', 'yes'), 'invalid-value', '/is_causal'),
  'an unknown method': map(set('method', 'magic'), 'invalid-value', '/method', /exact/),
  'an unknown output': map(set('outputs', ['loss_curve']), 'invalid-value', '/outputs/0'),
  'a list of lists as outputs': map(set('outputs', [['gradients']]), 'invalid-value', '/outputs/0'),

  // Shapes that do not fit each other.
  'hidden_states of one dimension': map(set('hidden_states', tensor([16])), 'shape-mismatch', X),
  'weight that does not take d_in': map(
    set('k_proj.weight', tensor([2, 5])),
    'shape-mismatch',
    '/k_proj/weight',
    /\(2, 5\).*4/,
  ),
  'weight of three dimensions': map(
    set('k_proj.weight', tensor([2, 2, 2])),
    'shape-mismatch',
    '/k_proj/weight',
  ),
  'query and key heads of different width': map(
    set('k_proj.weight', tensor([3, 4])),
    'shape-mismatch',
    '/k_proj/weight',
  ),
  'rows that are no multiple of the heads': map(
    set('num_attention_heads', 4),
    'shape-mismatch',
    '/q_proj/weight',
    /num_attention_heads/,
  ),
  'key/value heads that do not divide the heads': map(
    (body) => {
      body.num_attention_heads = 2;
      body.num_key_value_heads = 3;
    },
    'shape-mismatch',
    '/num_key_value_heads',
  ),
  'lora_A of another d_in': map(
    set('q_proj.lora_A', tensor([1, 3])),
    'shape-mismatch',
    '/q_proj/lora_A',
  ),
  'lora_B of another rank': map(
    set('q_proj.lora_B', tensor([2, 2])),
    'shape-mismatch',
    '/q_proj/lora_B',
  ),
  'lora_B of another width': map(
    set('v_proj.lora_B', tensor([3, 1])),
    'shape-mismatch',
    '/v_proj/lora_B',
  ),
  'bias of another width': map(set('q_proj.bias', tensor([3])), 'shape-mismatch', '/q_proj/bias'),
  'target of another length': map(
    set('target', tensor([3, 2])),
    'shape-mismatch',
    '/target',
    /\(4, 2\)/,
  ),
  'target with a batch, inputs without': map(
    set('target', tensor([1, 4, 2])),
    'shape-mismatch',
    '/target',
  ),
  'values and keys of different length': map(
    (body) => {
      delete body.hidden_states;
      body.query_states = tensor([4, 4]);
      body.key_states = tensor([3, 4]);
      body.value_states = tensor([2, 4]);
    },
    'shape-mismatch',
    '/value_states',
  ),
  'different batches': map(
    (body) => {
      delete body.hidden_states;
      body.query_states = tensor([2, 4, 4]);
      body.key_states = tensor([3, 4, 4]);
      body.value_states = tensor([3, 4, 4]);
    },
    'shape-mismatch',
    '/key_states',
  ),

  // Rotary positions and padding.
  'cos without sin': map(set('cos', tensor([4, 2])), 'missing-key', '', /sin is missing/),
  'cos of another length': map(rotary([3, 2], [4, 2]), 'shape-mismatch', '/cos', /L = 4/),
  'cos and sin of two widths': map(
    (body) => {
      for (const name of ['q_proj', 'k_proj', 'v_proj']) {
        body[name] = { weight: tensor([4, 4]), lora_A: tensor([1, 4]), lora_B: tensor([4, 1]) };
      }
      body.target = tensor([4, 4]);
      rotary([4, 2], [4, 4])(body);
    },
    'shape-mismatch',
    '/sin',
    /2 channels of each head, but sin 4/,
  ),
  'more rotary channels than a head has': map(
    rotary([4, 6], [4, 6]),
    'shape-mismatch',
    '/cos',
    /at most d = /,
  ),
  'sin of another batch': map(rotary([4, 2], [2, 4, 2]), 'shape-mismatch', '/sin'),
  'rotary positions on an odd width': map(
    (body) => {
      for (const name of ['q_proj', 'k_proj', 'v_proj']) {
        body[name] = { weight: tensor([3, 4]), lora_A: tensor([1, 4]), lora_B: tensor([3, 1]) };
      }
      body.target = tensor([4, 3]);
      rotary([4, 3], [4, 3])(body);
    },
    'shape-mismatch',
    '/cos',
    /an even r/,
  ),
  'rotary positions on other keys': map(
    (body) => {
      delete body.hidden_states;
      body.query_states = tensor([4, 4]);
      body.key_states = tensor([3, 4]);
      body.value_states = tensor([3, 4]);
      rotary([4, 2], [4, 2])(body);
    },
    'shape-mismatch',
    '/cos',
    /Lq = 4 and Lk = 3/,
  ),
  'key lengths for two items of one': map(
    set('key_lengths', [4, 4]),
    'shape-mismatch',
    '/key_lengths',
  ),
  'a key length below none': map(set('key_lengths', [-1]), 'invalid-value', '/key_lengths/0'),
  'a key length beyond Lk': map(
    set('key_lengths', [5]),
    'invalid-value',
    '/key_lengths/0',
    /from 0 to Lk = 4/,
  ),
  'half a key': map(set('key_lengths', [2.5]), 'invalid-value', '/key_lengths/0'),
  'a key length that is no number': map(
    set(
      'key_lengths',
      tensor([1], () => Number.NaN),
    ),
    'invalid-value',
    '/key_lengths/0',
  ),
  'key lengths as one number': map(set('key_lengths', 4), 'invalid-tensor', '/key_lengths'),
  'more features than the sums at full width have room for': map(
    (body) => {
      const weight = () => tensor([256, 4]);
      body.q_proj = { weight: weight(), lora_A: tensor([1, 4]), lora_B: tensor([256, 1]) };
      Object.assign(body, { k_proj: { weight: weight() }, v_proj: { weight: weight() } });
      Object.assign(body, { target: tensor([4, 256]), features: 512 });
      body.outputs = ['input_gradients'];
    },
    'limit-exceeded',
    '/features',
    /up to 128 features/,
  ),
};

for (const [name, { body, kind, pointer, type = MSGPACK, says }] of Object.entries(CASES)) {
  test(`refused: ${name}`, async () => {
    const response = await server.post('/gradient', body, type, '*/*');
    const problem = (await response.json()) as ProblemDetails;
    assert.equal(problem.type, `urn:loragrad:problem:${kind}`, JSON.stringify(problem));
    assert.equal(response.status, problem.status);
    assert.ok(problem.status >= 400 && problem.status < 500);
    assert.match(response.headers.get('content-type') ?? '', /^application\/problem\+json/);
    if (pointer !== undefined) assert.equal(problem.pointer, pointer, problem.detail);
    if (says) assert.match(problem.detail, says);
  });
}

test('forward takes no objective, and says so', async () => {
  const response = await server.post('/forward', good, MSGPACK, '*/*');
  const problem = (await response.json()) as ProblemDetails;
  assert.equal(problem.type, 'urn:loragrad:problem:unknown-key');
  assert.equal(problem.pointer, '/target');
});

test('input gradients of a frozen layer are something to do, its adapters are not', async () => {
  const frozen = (outputs: string[]) =>
    pack(
      spoilt((body) => {
        body.q_proj = { weight: tensor([2, 4]) };
        body.v_proj = { weight: tensor([2, 4]) };
        body.outputs = outputs;
      }),
    );
  const fine = await server.post('/gradient', frozen(['input_gradients']), MSGPACK, '*/*');
  assert.equal(fine.status, 200);
  const refused = await server.post(
    '/gradient',
    frozen(['gradients', 'input_gradients']),
    MSGPACK,
    '*/*',
  );
  const problem = (await refused.json()) as ProblemDetails;
  assert.equal(problem.type, 'urn:loragrad:problem:nothing-to-do');
});

test('not acceptable', async () => {
  const response = await server.post('/gradient', good, MSGPACK, 'text/html');
  assert.equal(response.status, 406);
});

test('the wrong method names the right ones', async () => {
  const response = await fetch(`${server.url}/gradient`);
  assert.equal(response.status, 405);
  assert.equal(response.headers.get('allow'), 'POST');
});

test('an unknown address', async () => {
  const response = await fetch(`${server.url}/gradients`, { method: 'POST' });
  assert.equal(response.status, 404);
  assert.equal(((await response.json()) as ProblemDetails).type, 'urn:loragrad:problem:not-found');
});

test('after all of that the server still answers', async () => {
  const response = await server.post('/gradient', good, MSGPACK, '*/*');
  assert.equal(response.status, 200);
  // biome-ignore lint/suspicious/noExplicitAny: a probe for pollution
  assert.equal(({} as any).polluted, undefined);
});
