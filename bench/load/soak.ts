/** A steady load for a long time: memory and latency stay what they are. */
import { duration, table } from '../support/format.js';
import { Service } from '../support/service.js';
import { quantile } from '../support/statistics.js';
import { Client } from './client.js';
import { closedLoop, lossesOf, mixture, statusesOf } from './traffic.js';
import { flat, none, otherThan, type TrialResult, told } from './trial.js';

const CONNECTIONS = 6;
const PARTS = 10;

export async function soak(seconds: number): Promise<TrialResult> {
  const service = await Service.start({ workers: 2 });
  const client = new Client(service.port);
  const rows: string[][] = [];
  const [resident, latency]: [number[], number[]] = [[], []];
  const losses: string[] = [];
  let others = 0;
  try {
    for (let part = 0; part < PARTS; part++) {
      const options = { connections: CONNECTIONS, seconds: seconds / PARTS };
      const all = await closedLoop(client, mixture(), options);
      const { latencies } = all.small!;
      resident.push(service.memory().resident);
      latency.push(quantile(latencies, 0.5));
      losses.push(...lossesOf(all));
      others += otherThan(['200'], statusesOf(all));
      rows.push([
        duration(((part + 1) * seconds) / PARTS),
        told(statusesOf(all)),
        duration(latency.at(-1)! / 1000),
        duration(quantile(latencies, 0.99) / 1000),
        `${Math.round(resident.at(-1)! / 2 ** 20)} MiB`,
      ]);
    }
    return {
      text: table(['after', 'answers', 'small, median', 'small, p99', 'resident'], rows, 2),
      targets: [
        none('answers but 200', others, losses),
        flat('resident memory', resident),
        flat('the median time of small requests', latency),
      ],
    };
  } finally {
    client.close();
    await service.stop();
  }
}
