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
import { testSeed } from '../../support/random.js';
import { expected } from './loops.js';

const ROUNDS = 40;
const seed = testSeed();
const NAMES = [...Object.keys(OPERATIONS), ...Object.keys(STAGES)] as Call['name'][];

const builds = availableKernels().map((kernels) => ({
  where: kernels.file ? `${kernels.build}, ${kernels.file.replace(/.*[/\\]/, '')}` : kernels.build,
  wasm: loadKernels(kernels),
}));

for (const name of NAMES) {
  const having = builds.filter(({ wasm }) => name in wasm.fn);
  const skip = having.length === 0 && 'No build here has it';
  test(`every build computes what it says: ${name}`, { skip }, () => {
    const draw = drawFrom(new Random(seed));
    for (let round = 0; round < ROUNDS; round++) {
      const call = drawCall(name, draw);
      // All builds beside the same loops, which take most of the time.
      const right = expected(call);
      const reference = (of: Call) => (of === call ? right : expected(of));
      for (const { where, wasm } of having) {
        const wrong = difference(call, runCall(wasm, call), reference);
        assert.equal(wrong, null, `${where}: ${wrong}`);
      }
    }
  });
}
