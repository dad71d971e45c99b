import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Tally } from '../../bench/coverage/count.js';
import type { CoverageSetting } from '../../bench/coverage/coverage.js';
import { tell as tellCoverage } from '../../bench/coverage/report.js';
import { drawTrial } from '../../bench/coverage/trial.js';
import type { GrowthSetting } from '../../bench/growth/growth.js';
import { tell as tellGrowth } from '../../bench/growth/report.js';
import type { Run } from '../../bench/question.js';
import type { Measurement } from '../../bench/support/rounds.js';

const environment = {
  ...{ cpu: 'A processor', cpus: 2, memoryGiB: 8, loadAtStart: 0.1, system: 'Linux 6, x64' },
  ...{ node: '20.0.0', v8: '11.3', kernels: 'wasm-relaxed', torch: null },
};
const run = <S>(measurements: readonly Measurement<S>[]): Run<S> => ({
  ...{ date: '2030-01-02', quick: false, environment, measurements },
});

const details = {
  ...{ features: 64, outlier_queries: 0, outlier_keys: 0, plan_share: 0.1, estimate_share: 0.1 },
  ...{ upper: 0.008, error: 0.002, resident_mib: 900, inputs_mib: 500 },
};
const growth = (length: number, low: number, more: object = {}): Measurement<GrowthSetting> => ({
  setting: { length, tail: 'normal' },
  seconds: { 'low-rank': [low], ...more },
  details,
});

test('growth: ratios, exponent, memory and shares are judged by the numbers', () => {
  const { targets, plots } = tellGrowth(
    run([
      growth(16_384, 1, { exact: [12] }),
      growth(65_536, 4, { exact: [192], 'PyTorch sdpa': [500], 'PyTorch blocked': [300] }),
      growth(1_048_576, 64),
    ]),
  );
  const judged = targets.map(({ measured, met }) => [measured, met]);
  assert.deepEqual(judged, [
    ['12.0x, error 0.2 %', true],
    ['48.0x, error 0.2 %', true],
    [null, false],
    [null, false],
    ['75.0x', false],
    ['1.00', true],
    ['400 MiB above the inputs, the whole process and 2 workers', true],
    ['20 % (plan 10 %, estimate 10 %)', true],
  ]);
  assert.doesNotMatch(plots[0].svg, /NaN/);
});

const good = { tensor: 'q_proj.lora_A', error: 0.01, upper: 0.02, certificate: 3 };
const kept = { way: 'low_rank', overTolerance: 0.5 } as const;

function counted(problems: number, misses: number): Measurement<CoverageSetting> {
  const tally = new Tally();
  for (let k = 0; k < problems; k++) {
    const forced = [k < misses ? { ...good, error: 0.03 } : good];
    tally.add({ ratio: 0.5, forced, auto: kept, torchDifference: null });
  }
  const setting = { scale: 'short', by: 'all', value: 'all problems', seed: 1 } as const;
  return { setting, seconds: {}, details: tally.figures() };
}

function coverageTargets(problems: number, misses: number) {
  const all = counted(problems, misses);
  const value = '0.1';
  return tellCoverage(
    run([
      all,
      { ...all, setting: { ...all.setting, by: 'logit deviation', value } },
      { ...counted(1, 0), setting: { ...all.setting, scale: 'long' } },
    ]),
  ).targets.map(({ met, measured }) => (measured === null ? null : met));
}

test('coverage: the claims are judged by the counts, and by enough of them', () => {
  assert.deepEqual(coverageTargets(1000, 20), [true, true, true, true]);
  assert.deepEqual(coverageTargets(1000, 21), [false, false, true, true]);
  assert.deepEqual(coverageTargets(100, 0), [null, null, null, null]);
});

test('coverage: refusals, limits that are no numbers, certificates and misses of auto are counted', () => {
  const tally = new Tally();
  const auto = { way: 'fallback', overTolerance: 1.1 } as const;
  tally.add({ ratio: 9, forced: null, auto, torchDifference: 1e-15 });
  const forced = [
    { ...good, upper: Number.NaN },
    { ...good, certificate: 0.001 },
  ];
  tally.add({ ratio: 9, forced, auto: kept, torchDifference: 1e-14 });
  const { problems, refused, answers, answers_covered, tensors, covered } = tally.figures();
  assert.deepEqual(
    [problems, refused, answers, answers_covered, tensors, covered],
    [2, 1, 1, 0, 2, 1],
  );
  const { certificates, held, auto_missed, auto_fallback, torch, torch_difference } =
    tally.figures();
  assert.deepEqual([certificates, held, auto_missed, auto_fallback], [2, 1, 1, 1]);
  assert.deepEqual([torch, torch_difference], [2, 1e-14]);
});

test('coverage: the same seed draws the same problem', () => {
  assert.deepEqual(drawTrial('short', 5), drawTrial('short', 5));
  assert.notDeepEqual(drawTrial('short', 5), drawTrial('short', 6));
});
