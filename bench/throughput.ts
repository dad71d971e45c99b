/** How many small requests a second does the service answer? */
import type { Bench, Question, Run, Section } from './question.js';
import { jsonBody, messagePackBody } from './support/body.js';
import { digits, duration, table } from './support/format.js';
import { httpRequest, load } from './support/http-load.js';
import { type Measurement, type Side, takeTurns } from './support/rounds.js';
import { Service } from './support/service.js';
import { median, spread } from './support/statistics.js';
import { makeProblem } from './support/subject.js';

interface ThroughputSetting {
  readonly [name: string]: number | string;
  readonly length: number;
  readonly dim: number;
  readonly connections: number;
}

/** The same server without a gradient: the floor under the others. */
const FLOOR = 'GET /health/live';

function sides(service: Service, seconds: number, latencies: Record<string, number[]>) {
  const side = (
    name: string,
    request: (setting: ThroughputSetting) => Buffer,
  ): Side<ThroughputSetting> => ({
    name,
    seconds: async (setting) => {
      const { connections } = setting;
      const result = await load(service.port, request(setting), { connections, seconds });
      latencies[name] ??= [];
      latencies[name].push(median(result.latencies));
      return result.seconds / result.requests;
    },
  });
  const problem = ({ length, dim }: ThroughputSetting) =>
    makeProblem({ length, dim, adapters: 'qv' });
  return [
    side('JSON', (setting) => httpRequest('POST', '/gradient', jsonBody(problem(setting)))),
    side('MessagePack', (setting) =>
      httpRequest('POST', '/gradient', messagePackBody(problem(setting))),
    ),
    side(FLOOR, () => httpRequest('GET', '/health/live')),
  ];
}

async function run(bench: Bench): Promise<Measurement<ThroughputSetting>[]> {
  const settings = [
    { length: 4, dim: 4, connections: 1 },
    { length: 4, dim: 4, connections: 16 },
    { length: 128, dim: 64, connections: 16 },
    { length: 1024, dim: 64, connections: 1 },
  ];
  bench.progress.begin('throughput', settings.length);
  const service = await Service.start({ workers: bench.cpus });
  const measurements: Measurement<ThroughputSetting>[] = [];
  try {
    for (const setting of settings) {
      const latencies: Record<string, number[]> = {};
      const contestants = sides(service, bench.quick ? 0.3 : 1, latencies);
      const rounds = { least: 5, budgetSeconds: 0 };
      const measured = await takeTurns(contestants, setting, rounds, bench.progress);
      const details = Object.fromEntries(
        Object.entries(latencies).map(([name, list]) => [
          `latency ${name}`,
          median(list.slice(-measured.seconds[name].length)),
        ]),
      );
      measurements.push({ ...measured, details });
    }
  } finally {
    await service.stop();
  }
  return measurements;
}

function tell({ measurements }: Run<ThroughputSetting>): Section {
  const text = [
    'Whole requests over keep-alive connections, one after the other on each; the client runs on the same',
    'processors. The body holds a problem of L rows, one head of width d, rank 8 on q and v.',
    '`GET /health/live` is the same server without tensors: what HTTP alone allows.',
    '',
    table(
      ['L', 'd', 'connections', 'request', 'requests a second (min to max)', 'median latency'],
      measurements.flatMap(({ setting, seconds, details = {} }) =>
        Object.entries(seconds).map(([name, list]) => {
          const rate = spread(list.map((one) => 1 / one));
          const latency = details[`latency ${name}`];
          return [
            String(setting.length),
            String(setting.dim),
            String(setting.connections),
            name,
            `${digits(rate.median)} (${digits(rate.min)} to ${digits(rate.max)})`,
            duration(latency),
          ];
        }),
      ),
      4,
    ),
  ];
  return { text: text.join('\n'), plots: [], targets: [] };
}

export const throughput: Question<ThroughputSetting> = {
  name: 'throughput',
  title: 'Small requests a second',
  run,
  tell,
};
