/** Load from once to ten times what the service can do; and a greedy client beside a polite one. */
import { duration, table } from '../support/format.js';
import { Service } from '../support/service.js';
import { quantile } from '../support/statistics.js';
import { polite, probe } from './beside.js';
import { Client, closedLoop, mixture, openLoop, statusesOf, type Tallies } from './traffic.js';

const FACTORS = [1, 2, 3, 5, 10];
/** Connections that are enough to keep the workers busy. */
const ENOUGH = 8;
const GREEDY = [50, 200];

const good = (all: Tallies, name: string) => all[name]?.statuses['200'] ?? 0;

/** What the answers were worth: seconds of work, in small requests. */
function worth(all: Tallies, large: number): number {
  return good(all, 'small') + large * good(all, 'large');
}

const told = (statuses: Record<string, number>) =>
  Object.entries(statuses)
    .map(([status, n]) => `${status}: ${n}`)
    .join(', ');

export async function overload(seconds: number): Promise<string> {
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
    for (const factor of FACTORS) {
      const rate = capacity * factor;
      const endProbe = probe(service.port);
      const all = await openLoop(client, kinds, { rate, seconds });
      const health = await endProbe();
      const goodput = worth(all, ratio) / seconds;
      best = Math.max(best, goodput);
      rows.push([
        `${factor}x (${Math.round(rate)}/s)`,
        goodput.toFixed(0),
        `${Math.round((100 * goodput) / best)} %`,
        duration(quantile(all.small!.latencies, 0.5) / 1000),
        duration(quantile(all.small!.latencies, 0.99) / 1000),
        duration(quantile(health, 0.99) / 1000),
        told(statusesOf(all)),
        `${Math.round(service.resident() / 2 ** 20)} MiB`,
      ]);
    }
    return [
      `Nine requests of L = 128 for one of L = 2048 (d = 32, exact or low-rank as the service chooses), on two workers;`,
      `goodput counts a large one as the ${ratio.toFixed(1)} small ones that take as long. ${seconds} seconds each.`,
      '',
      table(
        [
          'offered',
          'goodput',
          'of the best',
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
  } finally {
    client.close();
    await service.stop();
  }
}

export async function fairness(seconds: number): Promise<string> {
  const service = await Service.start({ workers: 2 });
  const kinds = mixture();
  const rows: string[][] = [];
  const measure = async (who: string, beside: Promise<Tallies> | null) => {
    const { tally, refused } = await polite(service.port, seconds);
    const others = beside ? statusesOf(await beside)['200'] : 0;
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
    return [
      `A client with one connection that sends small requests and waits as Retry-After says, beside one of another`,
      `address that does not wait. ${seconds} seconds each.`,
      '',
      table(['beside', 'answered', 'refused', 'median', 'p99', 'answered to the other'], rows, 1),
    ].join('\n');
  } finally {
    await service.stop();
  }
}
