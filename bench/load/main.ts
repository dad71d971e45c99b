/**
 * npm run load -- [overload|fairness|deaths|terms|fuzz|soak ...] [--short] [--seed N]
 *
 * Runs the trials (all of them by default), each against a service of its own, and writes what they show into
 * docs/load.md. --short: a minute each, and nothing is written. Ends with 1 when a trial missed what it is held to.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chooseKernels } from '../../workers/kernels/inner/load.js';
import { stagesDiffer } from '../../workers/tasks/check-stages.js';
import { environment, environmentLine } from '../support/environment.js';
import { deaths, terms } from './faults.js';
import { fuzz } from './fuzz.js';
import { fairness, overload } from './overload.js';
import { soak } from './soak.js';
import type { TrialResult } from './trial.js';

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { short: { type: 'boolean', default: false }, seed: { type: 'string', default: '1' } },
});
const { short } = options;

const TRIALS: Readonly<Record<string, () => Promise<TrialResult>>> = {
  overload: () => overload(short ? 8 : 40),
  fairness: () => fairness(short ? 6 : 20),
  deaths: () => deaths(short ? 10 : 100),
  terms: () => terms(short ? 3 : 30),
  fuzz: () => fuzz(short ? 2000 : 100_000, Number(options.seed)),
  soak: () => soak(short ? 30 : 1800),
};

const TITLES: Readonly<Record<string, string>> = {
  overload: 'Once to ten times what it can do',
  fairness: 'A polite client beside a greedy one',
  deaths: 'Workers that end',
  terms: 'SIGTERM',
  fuzz: 'Structured bodies',
  soak: 'A steady load',
};

/** What the services of the trials choose, too. */
const kernels = chooseKernels('auto', stagesDiffer).build;

const DOCUMENT = fileURLToPath(new URL('../../../docs/load.md', import.meta.url));

/** Replaces what stands between the markers of a trial. */
function write(name: string, text: string, before: number): void {
  const where = `_${new Date().toISOString().slice(0, 10)}; ${environmentLine(environment(kernels, null, before))}._`;
  const document = readFileSync(DOCUMENT, 'utf8');
  const [open, close] = [`<!-- load: ${name} -->`, `<!-- /load: ${name} -->`];
  const [from, to] = [document.indexOf(open), document.indexOf(close)];
  if (from < 0 || to < from) throw new Error(`There is no place for ${name} in ${DOCUMENT}.`);
  writeFileSync(
    DOCUMENT,
    `${document.slice(0, from + open.length)}\n### ${TITLES[name]}\n\n${text}\n\n${where}\n${document.slice(to)}`,
  );
}

const names = positionals.length > 0 ? positionals : Object.keys(TRIALS);
for (const name of names) {
  const trial = TRIALS[name];
  if (!trial) throw new Error(`There is no trial '${name}'; there are ${Object.keys(TRIALS)}.`);
  const before = loadavg()[0]!;
  const { text, targets } = await trial();
  const verdicts = targets.map(
    ({ wanted, measured, met }) => `* ${met ? 'met' : '**missed**'}: ${wanted}; ${measured}`,
  );
  const whole = `${text}\n\n${verdicts.join('\n')}`;
  console.log(`${name}\n${whole}\n`);
  if (targets.some(({ met }) => !met)) process.exitCode = 1;
  if (!short) write(name, whole, before);
}
