/** Requests at the same time, some of them given up: nobody sees the memory of another. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type GradientAnswer, startServer } from '../../support/processes/server.js';
import { DIALECTS, decodeAnswer, MSGPACK } from '../../support/wire/dialects.js';
import { encodeValues } from '../../support/wire/wire-tensor.js';

const WIDTH = 32;

/** Other numbers and other sizes with every seed; large enough for memory that is used again. */
function body(seed: number): Uint8Array<ArrayBuffer> {
  const length = 640 + 41 * (seed % 5);
  const tensor = (rows: number, columns: number, salt: number) => {
    const numbers = Float64Array.from({ length: rows * columns }, (_, k) =>
      Math.sin((k + 1) * (salt + seed / 7)),
    );
    return encodeValues('float32', [rows, columns], numbers);
  };
  const adapter = { lora_A: tensor(4, WIDTH, 1), lora_B: tensor(WIDTH, 4, 2) };
  return new Uint8Array(
    DIALECTS.tensors.encode({
      hidden_states: tensor(length, WIDTH, 3),
      q_proj: { weight: tensor(WIDTH, WIDTH, 4), ...adapter },
      k_proj: { weight: tensor(WIDTH, WIDTH, 5) },
      v_proj: { weight: tensor(WIDTH, WIDTH, 6), ...adapter },
      grad_output: tensor(length, WIDTH, 7),
    }),
  );
}

test('answers are the same, bit for bit, alone and among others', async () => {
  const server = await startServer({ LORAGRAD_WORKERS: '2' });
  try {
    const { contentType } = DIALECTS.tensors;
    const gradients = async (seed: number) => {
      const response = await server.post('/gradient', body(seed), contentType, MSGPACK);
      assert.equal(response.status, 200);
      const bytes = new Uint8Array(await response.arrayBuffer());
      const answer = decodeAnswer(bytes, response.headers.get('content-type') ?? '');
      return (answer as GradientAnswer).gradients;
    };
    const seeds = Array.from({ length: 12 }, (_, seed) => seed);
    const alone: unknown[] = [];
    for (const seed of seeds) alone.push(await gradients(seed));
    const leaving = seeds.map(async (seed) => {
      const signal = AbortSignal.timeout(5 + 3 * seed);
      const headers = { 'content-type': contentType };
      const options = { method: 'POST', headers, body: body(seed + 100), signal };
      await fetch(`${server.url}/gradient`, options).catch(() => null);
    });
    assert.deepEqual(await Promise.all(seeds.map(gradients)), alone);
    await Promise.all(leaving);
    assert.deepEqual(await Promise.all(seeds.map(gradients)), alone);
  } finally {
    await server.close();
  }
});
