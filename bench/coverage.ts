/**
 * Do the error bars hold? Random problems over d, spectra, tails, logit deviations, adapted projections,
 * objectives and masks; the true error, against an oracle in float64, beside estimate and certificate.
 * node dist/bench/coverage.js [problems = 1000] [seed]
 */

import {
  distance,
  exactGradients,
  makeProblem,
  norm,
  type Recipe,
} from '../test/kernels/low-rank-support.js';
import { runJob } from '../workers/kernels/job.js';
import { lowRankJob } from '../workers/kernels/low-rank/job.js';
import { TENSORS } from '../workers/kernels/low-rank/layout.js';
import { planLowRank } from '../workers/kernels/low-rank/plan.js';
import { Random } from '../workers/kernels/low-rank/random.js';
import { type LowRankTask, runCompiledLowRankTask } from '../workers/kernels/low-rank/task.js';
import { loadWasm } from '../workers/kernels/wasm/load.js';

const wasm = loadWasm();
const run = (task: LowRankTask) => runCompiledLowRankTask(task, wasm, () => false);
const problems = Number(process.argv[2] ?? 1000);
const seed = Number(process.argv[3] ?? Math.floor(Date.now() / 1000));
console.log(`${problems} problems, seed ${seed}`);

const random = new Random(seed);
const any = <T>(list: readonly T[]): T => list[random.integer(list.length)];
/** Tensors whose true error the estimate covered, of how many; the same by problem; certificates. */
const count = { tensors: 0, covered: 0, answers: 0, allCovered: 0, lost: 0 };
const certificates = { given: 0, held: 0 };
/** Problems whose tolerance every upper limit met, and how many of them truly met it. */
const met = { claimed: 0, truly: 0 };
const ratios: number[] = [];

for (let k = 0; k < problems; k++) {
  const recipe: Recipe = {
    seed: seed * 10_000 + k,
    queryLength: 150 + random.integer(350),
    keyLength: 150 + random.integer(350),
    d: any([4, 8, 16, 32, 64, 128]),
    deviation: any([0.02, 0.05, 0.1, 0.3, 1, 4]),
    tail: any(['normal', 't4', 'few huge rows', 'one huge key'] as const),
    spectrum: any(['flat', 'harmonic', 'exponential'] as const),
    adapted: any(['qkv', 'qv', 'q', 'k', 'v']),
    causal: random.uniform() < 0.2,
    kind: any(['target', 'grad_output'] as const),
    single: true,
  };
  const problem = makeProblem(recipe);
  const tolerance = any([0.1, 0.02, 0.005]);
  const fixed = any([undefined, 16, 64, 256]);
  const options = { seed: recipe.seed, tolerance, rates: { exact: 30e9, lowRank: 30e9 } };
  const plan = runJob(
    planLowRank(problem, fixed === undefined ? options : { ...options, features: fixed }),
    run,
  );
  const settings = { correction: false, certificate: true, attentionOutput: false, single: true };
  const result = runJob(lowRankJob(problem, plan, { ...settings, seed: recipe.seed }), run);
  // Such an answer is not given: the exact kernel runs instead.
  if (result.lostRows > 0) {
    count.lost++;
    continue;
  }
  const exact = exactGradients(problem);
  let [all, claims, true_] = [true, true, true];
  for (const tensor of TENSORS) {
    const [projection, part] = tensor.split('.') as ['q_proj', 'lora_A'];
    const gradient = result.gradients[projection]?.[part];
    const figures = result.errors[tensor];
    if (!gradient || !figures) continue;
    const error = distance(gradient, exact[tensor]);
    const relative = error / norm(gradient);
    count.tensors++;
    if (relative <= figures.estimate.upper) count.covered++;
    else {
      all = false;
      console.log(tensor, relative, figures.estimate.upper, plan.features, JSON.stringify(recipe));
    }
    ratios.push(figures.estimate.upper / relative);
    if (figures.estimate.upper > tolerance) claims = false;
    if (relative > tolerance) true_ = false;
    if (!figures.certificate) continue;
    certificates.given++;
    if (error <= figures.certificate.frobenius) certificates.held++;
    else console.log('CERTIFICATE', tensor, error, figures.certificate, JSON.stringify(recipe));
  }
  count.answers++;
  if (all) count.allCovered++;
  if (claims) met.claimed++;
  if (claims && true_) met.truly++;
}

ratios.sort((a, b) => a - b);
const percent = (a: number, b: number) => `${a} of ${b} (${((100 * a) / b).toFixed(2)} %)`;
console.log(`upper limit covered ${percent(count.covered, count.tensors)} gradients`);
console.log(`all gradients of ${percent(count.allCovered, count.answers)} problems`);
console.log(`certificate held ${percent(certificates.held, certificates.given)}`);
console.log(`tolerance claimed and kept ${percent(met.truly, met.claimed)} problems`);
console.log(`${count.lost} problems out of reach of the features: no answer from this kernel`);
console.log(`upper limit over true error, median ${ratios[ratios.length >> 1].toFixed(1)}`);
