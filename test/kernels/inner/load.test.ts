/** Which build of the inner loops is used, and whether a wrong one would be noticed. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { FIELD_AT } from '../../../workers/kernels/inner/block.js';
import { portableKernels } from '../../../workers/kernels/inner/builds.js';
import { Wasm, type WasmExports } from '../../../workers/kernels/inner/instance.js';
import { chooseKernels, loadWasm } from '../../../workers/kernels/inner/load.js';
import {
  OPERATIONS,
  type OperationName,
} from '../../../workers/kernels/inner/operations/operations.js';
import { selfCheck } from '../../../workers/kernels/inner/selfcheck.js';
import { stagesDiffer } from '../../../workers/tasks/check-stages.js';
import { KERNELS } from '../builds.js';

const native = KERNELS.filter(({ file }) => file !== null).map(({ build }) => build);

test('fused multiply-add is in use where WebAssembly is', () => {
  assert.equal(chooseKernels('wasm').build, 'wasm-relaxed');
});

test('the widest native kernels are in use where they were built, and asking for what is not there says so', () => {
  assert.equal(chooseKernels('auto').build, native[0] ?? portableKernels().build);
  for (const choice of ['native', 'avx2'] as const) {
    const found = choice === 'avx2' ? native.filter((build) => build === 'avx2') : native;
    if (found.length > 0) assert.equal(chooseKernels(choice).build, found[0]);
    else assert.throws(() => chooseKernels(choice), new RegExp(`LORAGRAD_KERNELS=${choice}: `));
  }
});

for (const kernels of KERNELS) {
  test(`worker threads load it too: ${kernels.build}`, async () => {
    const load = new URL('../../../workers/kernels/inner/load.js', import.meta.url);
    const code = `
      import { parentPort, workerData } from 'node:worker_threads';
      const { loadWasm } = await import('${load}');
      const wasm = loadWasm(workerData);
      const x = wasm.put(new Float32Array([1, -3, 2, 0]));
      parentPort.postMessage([wasm.build, wasm.fn.largest(4, x)]);`;
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), {
      workerData: kernels,
    });
    assert.deepEqual(await once(worker, 'message'), [[kernels.build, 3]]);
    await worker.terminate();
  });

  test(`memory that has moved is found again: ${kernels.build}`, () => {
    const wasm = loadWasm(kernels);
    const small = wasm.put(new Float32Array([1, 2, 3, 4]));
    wasm.alloc(64 * 2 ** 20);
    const x = wasm.put(new Float32Array([5, -7, 6, 0]));
    assert.deepEqual([wasm.fn.largest(4, small), wasm.fn.largest(4, x)], [4, 7]);
  });
}

test('memory lives as long as a function that works on it', () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  for (const kernels of KERNELS) {
    const alone = (() => {
      const wasm = loadWasm(kernels);
      const x = wasm.put(new Float32Array([1, -3, 2, 0]));
      const { largest } = wasm.fn;
      return () => largest(4, x);
    })();
    collect();
    assert.equal(alone(), 3, kernels.build);
  }
});

/** The real thing, and then a small error in the last array that it writes. */
function broken(wasm: Wasm, name: OperationName): Wasm {
  const right = wasm.fn[name] as unknown as (...x: number[]) => number | undefined;
  const wrong = (...args: number[]) => {
    const result = right(...args);
    const all = OPERATIONS[name].arguments;
    const at = all.findLastIndex((one) => one.kind === 'array' && one.access !== 'read');
    if (at >= 0) {
      const { type } = all[at] as { type: 'f32' | 'f64' };
      const x = wasm[type](args[at]!, 1);
      x[0]! += 0.01 * Math.max(1, Math.abs(x[0]!));
    } else if (result === undefined) {
      // The passes over the tiles: their maximum, weights, dP or dS.
      const field = name === 'scores' ? 'max' : 'e';
      const words = wasm.i32(args[0]!, Object.keys(FIELD_AT).length);
      wasm.f32(words[FIELD_AT[field]]!, 1)[0]! += 0.01;
    }
    return result === undefined ? result : result + 0.01;
  };
  return new Wasm({ ...wasm.fn, [name]: wrong } as WasmExports, wasm.build);
}

test('the self-check passes every build, and finds a wrong number of any operation', () => {
  const portable = loadWasm(portableKernels());
  for (const kernels of KERNELS) assert.equal(selfCheck(loadWasm(kernels), portable), null);
  for (const name of Object.keys(OPERATIONS) as OperationName[]) {
    const found = selfCheck(broken(loadWasm(), name), portable, [name]);
    assert.ok(found?.startsWith(name), `${name}: ${found}`);
  }
});

test('stages are checked too: one that leaves its sums as they were is seen', () => {
  const portable = loadWasm(portableKernels());
  for (const kernels of KERNELS) {
    const wasm = loadWasm(kernels);
    assert.equal(stagesDiffer(wasm, portable), null);
    if (!wasm.fn.attend) continue;
    const idle = new Wasm({ ...wasm.fn, attend: () => 0 }, wasm.build, () => {}, wasm.addressOf);
    assert.match(stagesDiffer(idle, portable) ?? '', /^attend: /);
    assert.throws(() => chooseKernels('native', () => 'wrong'), /wrong/);
  }
});

test('a build that computes something else is passed over for the next one', () => {
  const [widest, next = portableKernels().build] = native;
  const found = chooseKernels('auto', ({ build }) => (build === widest ? 'wrong' : null));
  assert.equal(found.build, next);
});
