/**
 * Every operation of the inner loops, in every build that runs here, against loops in float64: random operands of
 * random sizes, at any address, with canaries on either side.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { availableKernels, loadKernels } from '../../../workers/kernels/inner/builds.js';
import {
  type Call,
  difference,
  drawCall,
  drawFrom,
  runCall,
} from '../../../workers/kernels/inner/call.js';
import { OPERATIONS } from '../../../workers/kernels/inner/operations/operations.js';
import { STAGES } from '../../../workers/kernels/inner/operations/stages.js';
import { Random } from '../../../workers/kernels/random.js';
import { expected } from './loops.js';

const ROUNDS = 40;
const seed = Number(process.env.LORAGRAD_TEST_SEED ?? Date.now() % 2 ** 31);
const NAMES = [...Object.keys(OPERATIONS), ...Object.keys(STAGES)] as Call['name'][];

for (const kernels of availableKernels()) {
  const where = kernels.file
    ? `${kernels.build}, ${kernels.file.replace(/.*[/\\]/, '')}`
    : kernels.build;
  test(`every operation computes what it says: ${where}`, (t) => {
    t.diagnostic(`LORAGRAD_TEST_SEED=${seed}`);
    const draw = drawFrom(new Random(seed));
    const wasm = loadKernels(kernels);
    for (const name of NAMES.filter((one) => one in wasm.fn)) {
      for (let round = 0; round < ROUNDS; round++) {
        const call = drawCall(name, draw);
        assert.equal(difference(call, runCall(wasm, call), expected), null);
      }
    }
  });
}
