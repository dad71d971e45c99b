/** How much faster do more workers make one request with one head? */
import type { Bench, Question, Run, Section } from './question.js';
import { duration, durationSpread, plural, table, times, timesSpread } from './support/format.js';
import { linePlot } from './support/plot.js';
import { type Measurement, type Side, takeTurns } from './support/rounds.js';
import { median, pairedRatios } from './support/statistics.js';
import { adapterSet, exactSeconds, problems, startPool } from './support/subject.js';

interface ThreadsSetting {
  readonly [name: string]: number | string;
  readonly length: number;
  readonly dim: number;
  readonly adapters: 'qv';
}

const WANTED = 1.8;
/** The lengths that the target speaks of; below, a request is over before sharing it pays. */
const TARGET_LENGTHS = [4096, 16384];
const sideName = (workers: number) => plural(workers, 'worker');
/** Gradients that share nothing but the processors: no way to divide one gradient is faster. */
const apartName = (workers: number) => `${workers} apart`;

/** 1, 2, 4, ... and all. */
function workerCounts(cpus: number): number[] {
  const counts = new Set<number>();
  for (let count = 1; count < cpus; count *= 2) counts.add(count);
  return [...counts.add(cpus)];
}

async function run(bench: Bench): Promise<Measurement<ThreadsSetting>[]> {
  const lengths = bench.quick ? [512, 1024] : [1024, 4096, 16384];
  bench.progress.begin('threads', lengths.length);
  const problem = problems();
  const pools = await Promise.all(
    workerCounts(bench.cpus).map(async (workers) => ({
      workers,
      pool: await startPool(workers),
    })),
  );
  const alone = await Promise.all(Array.from({ length: bench.cpus }, () => startPool(1)));
  const sides = pools.map(
    ({ workers, pool }): Side<ThreadsSetting> => ({
      name: sideName(workers),
      seconds: (setting) => exactSeconds(pool, problem(setting)),
    }),
  );
  sides.push({
    name: apartName(bench.cpus),
    seconds: async (setting) => {
      const start = performance.now();
      await Promise.all(alone.map((pool) => exactSeconds(pool, problem(setting))));
      return (performance.now() - start) / 1000 / bench.cpus;
    },
  });
  const measurements: Measurement<ThreadsSetting>[] = [];
  try {
    for (const length of lengths) {
      const setting = { length, dim: 64, adapters: 'qv' } as const;
      const rounds = { least: 5, budgetSeconds: 5 };
      measurements.push(await takeTurns(sides, setting, rounds, bench.progress));
    }
  } finally {
    await Promise.all([...pools.map(({ pool }) => pool), ...alone].map((pool) => pool.close()));
  }
  return measurements;
}

function tell({ measurements }: Run<ThreadsSetting>): Section {
  const names = Object.keys(measurements[0].seconds);
  const [one, ...others] = names;
  const text = [
    'The same gradient by pools of different sizes that take turns; the answers are the same bit for bit. The last',
    'side computes as many gradients as there are processors, each in a pool of one worker; its time is divided by their',
    'number. That is the limit which a perfect division of one request would reach.',
    '',
    table(
      ['L', 'd', 'adapters', ...names, ...others.map((name) => `${name}: faster`)],
      measurements.map(({ setting, seconds }) => [
        String(setting.length),
        String(setting.dim),
        adapterSet(setting.adapters),
        ...names.map((name) => durationSpread(seconds[name])),
        ...others.map((name) => timesSpread(pairedRatios(seconds[one], seconds[name]))),
      ]),
      3,
    ),
  ];
  const lengths = measurements.map(({ setting }) => setting.length);
  const caption = 'Time against length by number of workers: one head, d = 64, {q, v}';
  const svg = linePlot({
    title: caption,
    x: { label: 'sequence length L', scale: 'log', ticks: lengths },
    y: { label: 'time of one gradient', scale: 'log', format: duration },
    series: names.map((name) => ({
      name,
      points: measurements.map(({ setting, seconds }) => [setting.length, median(seconds[name])]),
    })),
  });
  const ratios = measurements
    .filter(
      ({ setting, seconds }) => TARGET_LENGTHS.includes(setting.length) && seconds[sideName(2)],
    )
    .map(({ setting, seconds }) => ({
      length: setting.length,
      ratio: pairedRatios(seconds[one], seconds[sideName(2)]).median,
      apart: seconds[apartName(2)] && pairedRatios(seconds[one], seconds[apartName(2)]).median,
    }));
  const said = ratios
    .map(({ length, ratio, apart }) => {
      const ceiling = apart ? ` (two apart: ${times(apart)})` : '';
      return `${times(ratio)} at L = ${length}${ceiling}`;
    })
    .join(', ');
  const target = {
    wanted: `Two workers are at least ${times(WANTED)} as fast as one, on one request with one head`,
    measured: said || null,
    met: ratios.length > 0 && ratios.every(({ ratio }) => ratio >= WANTED),
  };
  return { text: text.join('\n'), plots: [{ file: 'threads', caption, svg }], targets: [target] };
}

export const threads: Question<ThreadsSetting> = {
  name: 'threads',
  title: 'One request on several threads',
  run,
  tell,
};
