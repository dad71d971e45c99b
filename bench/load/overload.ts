/** Load from once to ten times what the service can do; and a greedy client beside a polite one. */
import { duration, table } from '../support/format.js';
import { Service } from '../support/service.js';
import { quantile } from '../support/statistics.js';
import { polite, probe } from './beside.js';
import { Client } from './client.js';
import { closedLoop, lossesOf, mixture, openLoop, statusesOf, type Tallies } from './traffic.js';
import { none, otherThan, type TrialResult, told } from './trial.js';

const FACTORS = [1, 2, 3, 5, 10];
/** Connections that are enough to keep the workers busy. */
const ENOUGH = 8;
const GREEDY = [50, 200];

/** Of the best goodput, what is left of it at the highest rate. */
const GOODPUT_LEFT = 0.9;
const SMALL_SECONDS = 2;
const HEALTH_MS = 50;
/** Of what the polite client gets alone: its one connection then waits for the turns of the others too. */
const POLITE_SHARE = 0.25;

const good = (all: Tallies, name: string) => all[name]?.statuses['200'] ?? 0;

/** What the answers were worth: seconds of work, in small requests. */
function worth(all: Tallies, large: number): number {
  return good(all, 'small') + large * good(all, 'large');
}

export async function overload(seconds: number): Promise<TrialResult> {
  const service = await Service.start({ workers: 2 });
  const client = new Client(service.port);
  const kinds = mixture();
  const [small, large] = kinds.map((kind) => ({ ...kind, share: 100 }));
  try {
    await closedLoop(client, kinds, { connections: ENOUGH, seconds: 5 });
    const each = async (kind: typeof small) => {
      const all = await closedLoop(client, [kind!], { connections: ENOUGH, seconds: 5 });
      return good(all, kind!.name) / 5;
    };
    const ratio = (await each(small)) / (await each(large));
    const alone = await closedLoop(client, kinds, { connections: ENOUGH, seconds });
    const capacity = (good(alone, 'small') + good(alone, 'large')) / seconds;
    const rows: string[][] = [];
    let best = worth(alone, ratio) / seconds;
    let bestPerCpu = 0;
    const highest = { goodput: 0, perCpu: 0, small: 0, health: 0 };
    const statuses: Record<string, number>[] = [];
    const losses: string[] = [];
    for (const factor of FACTORS) {
      const rate = capacity * factor;
      const endProbe = probe(service.port);
      const [start, before, mine] = [performance.now(), service.cpuSeconds(), process.cpuUsage()];
      const all = await openLoop(client, kinds, { rate, seconds });
      const took = (performance.now() - start) / 1000;
      const served = service.cpuSeconds() - before;
      const { user, system } = process.cpuUsage(mine);
      const health = await endProbe();
      const goodput = worth(all, ratio) / took;
      const perCpu = worth(all, ratio) / served;
      best = Math.max(best, goodput);
      bestPerCpu = Math.max(bestPerCpu, perCpu);
      const p99 = quantile(all.small!.latencies, 0.99) / 1000;
      const healthP99 = quantile(health, 0.99);
      const slowest = Math.max(highest.health, healthP99);
      Object.assign(highest, { goodput, perCpu, small: p99, health: slowest });
      statuses.push(statusesOf(all));
      losses.push(...lossesOf(all));
      rows.push([
        `${factor}x (${Math.round(rate)}/s)`,
        goodput.toFixed(0),
        `${Math.round((100 * goodput) / best)} %`,
        (served / took).toFixed(2),
        ((user + system) / 1e6 / took).toFixed(2),
        perCpu.toFixed(0),
        duration(quantile(all.small!.latencies, 0.5) / 1000),
        duration(p99),
        duration(healthP99 / 1000),
        told(statusesOf(all)),
        `${Math.round(service.memory().resident / 2 ** 20)} MiB`,
      ]);
    }
    const wrong = statuses.map((one) => otherThan(['200', '429', '503', '504'], one));
    const { peak } = service.memory();
    const promised = await promisedBytes(service);
    const text = [
      `Nine requests of L = 128 for one of L = 2048 (d = 32, exact or low-rank as the service chooses), on two workers;`,
      `goodput counts a large one as the ${ratio.toFixed(1)} small ones that take as long. ${seconds} seconds each. The clients`,
      `share the processors with the service: what each had of them stands beside it, and goodput by what the service had.`,
      '',
      table(
        [
          'offered',
          'goodput',
          'of the best',
          'CPUs: service',
          'load',
          'a CPU second',
          'small, median',
          'p99',
          'health, p99',
          'answers',
          'resident',
        ],
        rows,
        1,
      ),
    ].join('\n');
    return {
      text,
      targets: [
        {
          wanted: `at ${FACTORS.at(-1)}x at least ${100 * GOODPUT_LEFT} % of the best goodput`,
          measured: `${Math.round((100 * highest.goodput) / best)} %`,
          met: highest.goodput >= GOODPUT_LEFT * best,
        },
        {
          wanted: `the same for each second of CPU that the service had`,
          measured: `${Math.round((100 * highest.perCpu) / bestPerCpu)} %`,
          met: highest.perCpu >= GOODPUT_LEFT * bestPerCpu,
        },
        {
          wanted: `99 % of small requests that are taken at ${FACTORS.at(-1)}x within ${SMALL_SECONDS} s`,
          measured: duration(highest.small),
          met: highest.small <= SMALL_SECONDS,
        },
        {
          wanted: `health within ${HEALTH_MS} ms (p99) at any rate`,
          measured: `${Math.round(highest.health)} ms`,
          met: highest.health <= HEALTH_MS,
        },
        none(
          'answers but 200, 429, 503 and 504, and none cut',
          wrong.reduce((a, b) => a + b, 0),
          losses,
        ),
        {
          wanted: `memory below the bytes in flight and of computations that /limits names`,
          measured: `${Math.round(peak / 2 ** 20)} of ${Math.round(promised / 2 ** 20)} MiB`,
          met: peak <= promised,
        },
      ],
    };
  } finally {
    client.close();
    await service.stop();
  }
}

async function promisedBytes({ port }: Service): Promise<number> {
  const limits = await (
    await fetch(`http://127.0.0.1:${port}/limits`, { headers: { accept: 'application/json' } })
  ).json();
  const { max_inflight_bytes, max_compute_bytes } = limits as Record<string, number>;
  return max_inflight_bytes! + max_compute_bytes!;
}

export async function fairness(seconds: number): Promise<TrialResult> {
  const service = await Service.start({ workers: 2 });
  const kinds = mixture();
  const rows: string[][] = [];
  const shares: number[] = [];
  let refusals = 0;
  const measure = async (who: string, beside: Promise<Tallies> | null) => {
    const { tally, refused } = await polite(service.port, seconds);
    const others = beside ? statusesOf(await beside)['200'] : 0;
    shares.push(tally.latencies.length);
    refusals += refused;
    rows.push([
      who,
      String(tally.latencies.length),
      String(refused),
      duration(quantile(tally.latencies, 0.5) / 1000),
      duration(quantile(tally.latencies, 0.99) / 1000),
      String(others ?? 0),
    ]);
  };
  try {
    await measure('nobody', null);
    for (const connections of GREEDY) {
      for (const kind of kinds) {
        const client = new Client(service.port);
        const all = [{ ...kind, share: 100 }];
        const greedy = closedLoop(client, all, { connections, seconds: seconds + 1 });
        await measure(`${connections} connections, ${kind.name}`, greedy);
        client.close();
      }
    }
    const text = [
      `A client with one connection that sends small requests and waits as Retry-After says, beside one of another`,
      `address that does not wait. ${seconds} seconds each.`,
      '',
      table(['beside', 'answered', 'refused', 'median', 'p99', 'answered to the other'], rows, 1),
    ].join('\n');
    const [alone, ...beside] = shares;
    const least = Math.min(...beside) / alone!;
    return {
      text,
      targets: [
        none('refusals of the polite client', refusals),
        {
          wanted: `the polite client gets at least ${100 * POLITE_SHARE} % of what it gets alone`,
          measured: `${Math.round(100 * least)} %`,
          met: least >= POLITE_SHARE,
        },
      ],
    };
  } finally {
    await service.stop();
  }
}
