/**
 * npm run bench -- [questions] [--quick] [--report]
 *
 * Runs the questions (all of them by default), keeps their results and writes docs/benchmarks.md with
 * its plots. Progress goes to standard error.
 */
import { loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { usableCpus } from '../src/machine/resources.js';
import type { Bench, Question, Run } from './question.js';
import { QUESTIONS } from './questions.js';
import { environment } from './support/environment.js';
import { Progress } from './support/progress.js';
import { readResults, writeReport, writeResults } from './support/store.js';
import { startPool } from './support/subject.js';
import { Torch } from './support/torch.js';

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    report: { type: 'boolean', default: false },
  },
});

/** The load average of a machine with nothing else to do stays below. */
const QUIET_LOAD = 0.5;

/** @throws {Error} when there is no such question. */
function chosen(names: readonly string[]): readonly Question[] {
  for (const name of names) {
    if (!QUESTIONS.some((one) => one.name === name)) {
      const known = QUESTIONS.map((one) => one.name).join(', ');
      throw new Error(`There is no question '${name}'; there are ${known}.`);
    }
  }
  return names.length === 0 ? QUESTIONS : QUESTIONS.filter((one) => names.includes(one.name));
}

async function startTorch(progress: Progress): Promise<Torch | null> {
  try {
    const torch = await Torch.start(process.env.PYTHON ?? 'python3');
    progress.say(`PyTorch ${torch.version}: ${torch.ways.join(', ')}`);
    return torch;
  } catch (error) {
    progress.say((error as Error).message);
    return null;
  }
}

/** Which build of the inner loops the workers of this run take. */
async function kernelsOfWorkers(): Promise<string> {
  const pool = await startPool(1);
  await pool.close();
  return pool.kernels;
}

async function measure(questions: readonly Question[], folder: string): Promise<void> {
  const progress = new Progress();
  const { quick } = options;
  const loadAtStart = Number(loadavg()[0].toFixed(2));
  if (loadAtStart > QUIET_LOAD) {
    progress.say(
      `This machine is busy (load average ${loadAtStart}): the numbers will not be good.`,
    );
  }
  const kernels = await kernelsOfWorkers();
  const torch = questions.some((one) => one.needsTorch) ? await startTorch(progress) : null;
  const bench: Bench = { quick, cpus: usableCpus(), torch, progress };
  try {
    for (const question of questions) {
      const version = question.needsTorch ? (torch?.version ?? null) : null;
      const start = performance.now();
      const measurements = await question.run(bench);
      const run: Run = {
        date: new Date().toISOString().slice(0, 10),
        quick,
        seconds: (performance.now() - start) / 1000,
        environment: environment(kernels, version, loadAtStart),
        measurements,
      };
      // At once: who stops the run here keeps what there is.
      writeResults(folder, { ...readResults(folder), [question.name]: run });
    }
  } finally {
    torch?.stop();
  }
  progress.say('Measured');
}

async function main(): Promise<void> {
  const questions = chosen(positionals);
  // Quick results never replace those that the documentation shows.
  const place = options.quick ? '../bench-quick/' : '../../docs/';
  const folder = fileURLToPath(new URL(place, import.meta.url));
  if (!options.report) await measure(questions, folder);
  for (const path of writeReport(folder, readResults(folder), QUESTIONS)) console.log(path);
}

main().catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});
