import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { AnswerForm } from '../../src/engine/messages.js';
import { priceOf } from '../../src/engine/price/price.js';
import { jobOf, type Work } from '../../src/engine/work.js';
import { Problem } from '../../src/errors.js';
import { solveOptions } from '../../src/http/routes/shared/solve-options.js';
import { parseLayer } from '../../src/request/parse.js';
import type { GradientRequest } from '../../src/request/request.js';
import { decodeMsgpack } from '../../src/wire/msgpack.js';
import { DEFAULT_WIRE_LIMITS } from '../../src/wire/tree/wire-limits.js';
import { runJob } from '../../workers/job.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { giveBack } from '../../workers/tasks/rest.js';
import { type AnyTask, runTask } from '../../workers/tasks/run.js';
import { encodedTensor } from '../../workers/tensor/encoded.js';
import { Lease } from '../../workers/tensor/shared-memory.js';
import { seededRandom, testSeed } from '../support/random.js';
import { pack, tensor, validBody } from '../support/wire/bodies.js';
import { type SizedRequest, sizedRequest } from '../support/wire/sized-request.js';

const RATES = { exact: 1e10, lowRank: 5e9 };
const FORM: AnswerForm = { json: false, dialect: 'tensor', extra: {} };
const MIB = 2 ** 20;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as (options?: { type: 'minor' }) => void;
/** Memory that one collection finds is free after the next. */
const collectYoung = () => {
  collect({ type: 'minor' });
  collect({ type: 'minor' });
};
const collectAll = () => {
  collect();
  collect();
};

function workOf({ path, body }: SizedRequest): Work {
  const request = decodeMsgpack(new Uint8Array(pack(body)), DEFAULT_WIRE_LIMITS)
    .value as GradientRequest;
  const parsed = parseLayer(request);
  const options = solveOptions(request, parsed, RATES);
  const { pending, layer, problem } = parsed;
  if (path === 'forward') return { kind: 'forward', layer, pending, options };
  if (path === 'plan') return { kind: 'plan', problem: problem ?? layer, pending, options };
  assert.ok(problem);
  return { kind: 'gradient', problem, pending, options };
}

const PAGE = 4096;

/** Bytes of the pages that something was written to: the others are addresses, not memory. */
function touchedBytes(memory: ArrayBuffer): number {
  const words = new BigUint64Array(memory);
  const step = PAGE / 8;
  let pages = 0;
  for (let at = 0; at < words.length; at += step) {
    if (words.subarray(at, at + step).some((word) => word !== 0n)) pages++;
  }
  return PAGE * pages;
}

/** Bytes outside the heap that a job holds at most, between its tasks. */
function mostBytes(work: Work): number {
  const wasm = loadWasm();
  const memory = new Lease();
  giveBack();
  collectAll();
  const bytes = () => process.memoryUsage().arrayBuffers;
  const before = bytes();
  const inner = touchedBytes(wasm.buffer);
  let most = 0;
  const look = () => {
    for (const free of [collectYoung, collectAll]) {
      if (bytes() - before <= most) return;
      free();
    }
    most = Math.max(most, bytes() - before);
  };
  try {
    runJob(jobOf(work, { clock: () => {}, memory }), (task) => {
      look();
      const result = runTask(task as AnyTask, wasm, () => false);
      look();
      return result;
    });
    look();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
  } finally {
    memory.end();
  }
  return most + touchedBytes(wasm.buffer) - inner;
}

/** Rounds of the test; more of them where a change of kernels is to be looked at. */
const rounds = Number(process.env.LORAGRAD_TEST_ROUNDS ?? 10);

/** Bytes priced and taken; null: it would take long. */
function looked(seed: number): { priced: number; most: number } | null {
  const request = sizedRequest(seededRandom(seed), 2 ** 18);
  const work = workOf(request);
  const price = priceOf(work, FORM);
  // Long ones take no other memory than short ones.
  if (price.seconds > 1) return null;
  const most = mostBytes(work);
  const what = `request ${seed}: ${request.path}, ${Object.keys(request.body)}`;
  assert.ok(price.bytes >= most, `${what}: priced ${price.bytes}, takes ${most}`);
  return { priced: price.bytes, most };
}

test('the price of a request is at least what it takes, and seldom a large multiple of it', () => {
  const seed = testSeed();
  const ratios: number[] = [];
  for (let round = 0; ratios.length < rounds; round++) {
    const found = looked(seed + round);
    // What is refused halfway, or finds its tolerance early, takes less.
    if (found) ratios.push(found.priced / (found.most + 4 * MIB));
  }
  ratios.sort((a, b) => a - b);
  const median = ratios[ratios.length >> 1] as number;
  assert.ok(median < 4, `median of ${ratios}`);
});

test('sums of low-rank that have a column for each pair of a value and a rank are priced', () => {
  // One row, 40 features, values of width 82 and a rank of 49.
  assert.ok(looked(519_918_913));
});

test('a long request of one head is not priced as if it had eight', () => {
  const [length, width] = [65_536, 64];
  const weight = tensor([width, width]);
  const body = {
    hidden_states: tensor([length, width]),
    q_proj: { weight, lora_A: tensor([2, width]), lora_B: tensor([width, 2]) },
    ...{ k_proj: { weight }, v_proj: { weight }, grad_output: tensor([length, width]) },
  };
  const { bytes } = priceOf(workOf({ path: 'gradient', body }), FORM);
  assert.ok(bytes < 3 * 2 ** 30, `${bytes}`);
});

test('long attention states are not priced as if error figures kept sums for each of their numbers', () => {
  const [length, heads, width] = [4096, 9, 64];
  const states = tensor([1, length, heads, width]);
  const grad = tensor([1, length, heads * width]);
  const inputs = { hidden_states: grad };
  const body = { query: states, key: states, value: states, grad_output: grad, inputs };
  const sent = 4 * 5 * length * heads * width;
  for (const method of ['exact', 'sampled']) {
    const { bytes } = priceOf(workOf({ path: 'gradient', body: { ...body, method } }), FORM);
    assert.ok(bytes < 16 * sent, `${method}: ${bytes / sent} times what is sent`);
  }
});

test('what stays until the answer is read is priced in the dtype that is asked for, and in that of the store', () => {
  const { target: _, ...layer } = validBody();
  const states = { ...layer.hidden_states, dtype: 'bfloat16', shape: [8, 4] };
  const answerOf = (more: object) =>
    priceOf(workOf({ path: 'forward', body: { ...layer, hidden_states: states, ...more } }), FORM)
      .answerBytes;
  const numbers = 8 * 2;
  assert.equal(answerOf({ outputs_dtype: 'float32' }) - answerOf({}), 2 * numbers);
  const encoded = encodedTensor('bfloat16', [numbers], new Uint8Array(2 * numbers));
  const kept = priceOf({ kind: 'keep', digest: '', encoded }, null);
  assert.equal(kept.answerBytes, 4 * numbers);
});
