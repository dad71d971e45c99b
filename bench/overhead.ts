/** What does the service add to the kernel, for a request of 16 MB? */
import type { Bench, Question, Run, Section } from './question.js';
import { messagePackBody } from './support/body.js';
import { digits, durationSpread, table } from './support/format.js';
import { connected, exchange, httpRequest } from './support/http-load.js';
import { type Measurement, type Side, takeTurns } from './support/rounds.js';
import { Service } from './support/service.js';
import { median, pairedDifferences } from './support/statistics.js';
import { exactSeconds, makeProblem, type Size, startPool } from './support/subject.js';

interface OverheadSetting {
  readonly [name: string]: number | string;
  readonly megabytes: number;
  readonly batch: number;
  readonly length: number;
  readonly heads: number;
  readonly dim: number;
}

const KERNEL = 'kernel alone';
const REQUEST = 'POST /gradient';
const WANTED_MS = 30;

/** Many bytes and little to compute, so that what is computed does not drown the difference. */
const SIZE: Size = { batch: 6, length: 512, heads: 8, dim: 64, adapters: 'qv' };
const QUICK: Size = { batch: 2, length: 128, heads: 2, dim: 64, adapters: 'qv' };

async function run(bench: Bench): Promise<Measurement<OverheadSetting>[]> {
  const { batch = 1, length, heads = 1, dim, adapters } = bench.quick ? QUICK : SIZE;
  const problem = makeProblem({ batch, length, heads, dim, adapters });
  const body = messagePackBody(problem);
  const megabytes = Number((body.bytes.length / 1e6).toPrecision(3));
  const setting = { megabytes, batch, length, heads, dim };
  bench.progress.begin('overhead', 1);

  const pool = await startPool(bench.cpus);
  const service = await Service.start({ workers: bench.cpus });
  const phases: Record<string, number[]> = {};
  const request = httpRequest('POST', '/gradient', body, 'application/json');
  const socket = await connected(service.port);
  const post = async () => {
    const start = performance.now();
    const answer = await exchange(socket, request);
    const seconds = (performance.now() - start) / 1000;
    const { timings_ms } = JSON.parse(answer.toString()) as { timings_ms: Record<string, number> };
    for (const [phase, ms] of Object.entries(timings_ms)) {
      phases[phase] ??= [];
      phases[phase].push(ms);
    }
    return seconds;
  };
  const sides: Side<OverheadSetting>[] = [
    { name: KERNEL, seconds: () => exactSeconds(pool, problem) },
    { name: REQUEST, seconds: post },
  ];
  try {
    const rounds = { least: 15, budgetSeconds: 0 };
    const measured = await takeTurns(sides, setting, rounds, bench.progress);
    const counted = measured.seconds[REQUEST].length;
    const details = Object.fromEntries(
      Object.entries(phases).map(([phase, list]) => [phase, median(list.slice(-counted))]),
    );
    return [{ ...measured, details }];
  } finally {
    socket.destroy();
    await service.stop();
    await pool.close();
  }
}

function tell({ measurements }: Run<OverheadSetting>): Section {
  const [{ setting, seconds, details = {} }] = measurements;
  const { megabytes, batch, length, heads, dim } = setting;
  const added = pairedDifferences(seconds[REQUEST], seconds[KERNEL]);
  const ms = (value: number) => `${digits(value)} ms`;
  const phases = Object.entries(details);
  const text = [
    `A MessagePack body of ${megabytes} MB (${batch} sequences of ${length} rows, ${heads} heads of width ${dim}) over a`,
    'connection to a service in another process on the same machine, in turns with the bare kernel on as',
    'many threads. The last column is the median of the differences, pair by pair. Besides HTTP, decoding and',
    'encoding it holds what the service does beyond the gradient: the threshold and the estimate of the error.',
    '',
    table(
      ['body', KERNEL, REQUEST, 'added (min to max)'],
      [
        [
          `${megabytes} MB`,
          durationSpread(seconds[KERNEL]),
          durationSpread(seconds[REQUEST]),
          `${ms(added.median * 1e3)} (${ms(added.min * 1e3)} to ${ms(added.max * 1e3)})`,
        ],
      ],
    ),
    '',
    'Where the time goes, by the `timings_ms` of the answers (medians):',
    '',
    table(
      phases.map(([phase]) => phase),
      [phases.map(([, value]) => ms(value))],
      0,
    ),
  ];
  const applies = Math.abs(megabytes - 16) < 1;
  const target = {
    wanted: `The service adds at most ${WANTED_MS} ms to the kernel, for a body of 16 MB`,
    measured: applies ? ms(added.median * 1e3) : null,
    met: applies && added.median * 1e3 <= WANTED_MS,
  };
  return { text: text.join('\n'), plots: [], targets: [target] };
}

export const overhead: Question<OverheadSetting> = {
  name: 'overhead',
  title: 'What the service adds to the kernel',
  run,
  tell,
};
