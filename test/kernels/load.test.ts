/** Which build of the inner loops is used, and whether a wrong one would be noticed. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { Wasm } from '../../workers/kernels/inner/instance.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { computesCorrectly } from '../../workers/kernels/inner/selfcheck.js';

/** Place of `ls`, the address of the left products, among the fields of a block. */
const LS = 25;

test('fused multiply-add is in use where Node has it', () => {
  assert.equal(loadWasm().mode, 'relaxed');
  assert.equal(loadWasm({ build: 'plain' }).mode, 'plain');
});

test('worker threads load it too', async () => {
  const load = new URL('../../workers/kernels/inner/load.js', import.meta.url);
  const code = `
    import { parentPort } from 'node:worker_threads';
    const { loadWasm } = await import('${load}');
    parentPort.postMessage(loadWasm().mode);`;
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`));
  const [mode] = (await once(worker, 'message')) as [string];
  assert.equal(mode, 'relaxed');
  await worker.terminate();
});

test('the self-check passes every build and finds a wrong digit', () => {
  for (const build of ['plain', 'relaxed'] as const) {
    const wasm = loadWasm({ build });
    assert.ok(computesCorrectly(wasm), build);
    const broken = new Wasm({ ...wasm.fn, gradients: wrongByOne(wasm) }, wasm.mode);
    assert.equal(computesCorrectly(broken), false, build);
  }
});

/** The real thing, and then one in the last digit of one left product. */
function wrongByOne(wasm: Wasm): Wasm['fn']['gradients'] {
  return (block, t0, t1) => {
    wasm.fn.gradients(block, t0, t1);
    const products = wasm.i32(block, LS + 1)[LS]!;
    wasm.f32(products, 1)[0]! += 1;
  };
}
