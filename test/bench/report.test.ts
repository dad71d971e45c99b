import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exact } from '../../bench/exact/exact.js';
import type { Results, Run } from '../../bench/question.js';
import { QUESTIONS } from '../../bench/questions.js';
import { report } from '../../bench/report.js';
import { serialise } from '../../bench/support/store.js';

const environment = {
  cpu: 'A processor',
  cpus: 2,
  memoryGiB: 8,
  loadAtStart: 0.1,
  system: 'Linux 6, x64',
  node: '20.0.0',
  v8: '11.3',
  kernels: 'wasm-relaxed',
  torch: '2.0.0',
};

const run = (measurements: Run['measurements'], date = '2030-01-02'): Run => ({
  date,
  quick: false,
  environment,
  measurements,
});

const setting = { length: 4096, dim: 64, adapters: 'qv', threads: 1 };
const seconds = {
  loragrad: [1, 1.1, 1],
  'PyTorch autograd': [4, 4.4, 4],
  'PyTorch blocked': [1.6, 1.76, 1.6],
};

const page = (results: Results) =>
  report(results, QUESTIONS).find(({ path }) => path === 'benchmarks.md')!.content;

test('targets are judged by the numbers', () => {
  const met = page({ exact: run([{ setting, seconds }]) });
  assert.match(met, /PyTorch's best way .*\| 1\.60x .*1 of 1 settings \| met \|/);
  assert.match(met, /plain autograd .*\| 4\.00x .* \| met \|/);
  const slow = { ...seconds, loragrad: [1.2, 1.3, 1.2] };
  const missed = page({
    exact: run([
      { setting, seconds },
      { setting: { ...setting, threads: 2 }, seconds: slow },
    ]),
  });
  assert.match(
    missed,
    /1\.33x \(L = 4096, \{q, v\}, 2 threads\) to 1\.60x; 1 of 2 settings \| \*\*missed/,
  );
});

test('sizes that no target speaks of, or no PyTorch: not measured', () => {
  const small = run([{ setting: { ...setting, length: 512 }, seconds }]);
  assert.match(page({ exact: small }), /not measured/);
  const alone = run([{ setting, seconds: { loragrad: seconds.loragrad } }]);
  assert.doesNotMatch(page({ exact: alone }), /PyTorch sdpa \||\| met \|/);
});

test('each question keeps the date and the machine of its own last run', () => {
  const threads = run(
    [
      {
        setting: { length: 4096, dim: 64, adapters: 'qv' },
        seconds: { '1 worker': [2, 2], '2 workers': [1, 1] },
      },
    ],
    '2031-05-06',
  );
  const text = page({ exact: run([{ setting, seconds }]), threads });
  assert.match(text, /2030-01-02\. A processor, 2 CPUs, 8 GiB/);
  assert.match(text, /2031-05-06\. A processor/);
  assert.match(text, /2\.00x at L = 4096 \| met \|/);
});

test('every plot that the page shows is written, and what is kept tells the same again', () => {
  const results: Results = { [exact.name]: run([{ setting, seconds }]) };
  const files = report(results, QUESTIONS);
  const shown = [...page(results).matchAll(/\]\((benchmarks\/[\w-]+\.svg)\)/g)].map(
    ([, path]) => path,
  );
  assert.deepEqual(
    files.slice(1).map(({ path }) => path),
    shown,
  );
  assert.ok(shown.length > 0);
  assert.deepEqual(report(JSON.parse(serialise(results)) as Results, QUESTIONS), files);
});
