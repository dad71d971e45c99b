import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startServer } from '../../support/processes/server.js';
import { pack, tensor } from '../../support/wire/bodies.js';

test('a long computation shows how far it is, a short one is served meanwhile', async () => {
  const server = await startServer({ LORAGRAD_WORKERS: '1' });
  try {
    const width = 64;
    const body = (length: number) =>
      pack({
        hidden_states: tensor([length, width]),
        q_proj: {
          weight: tensor([width, width]),
          lora_A: tensor([2, width]),
          lora_B: tensor([width, 2]),
        },
        k_proj: { weight: tensor([width, width]) },
        v_proj: { weight: tensor([width, width]) },
        grad_output: tensor([length, width]),
      });
    const post = async (length: number) => {
      const type = 'application/vnd.msgpack';
      assert.equal((await server.post('/gradient', body(length), type, type)).status, 200);
      return performance.now();
    };
    const long = post(16_384);
    const seen: number[] = [];
    while (!seen.some((fraction) => fraction > 0.2)) {
      const metrics = await (await fetch(`${server.url}/metrics`)).text();
      seen.push(Number(metrics.match(/^loragrad_oldest_job_progress_ratio (\S+)$/m)?.[1]));
    }
    const short = post(64);
    assert.ok((await short) < (await long), 'the short one waited for the whole of the long one');
    assert.deepEqual(
      seen,
      [...seen].sort((a, b) => a - b),
      'progress went backwards',
    );
    assert.ok(seen.every((fraction) => fraction >= 0 && fraction <= 1));
  } finally {
    await server.close();
  }
});
