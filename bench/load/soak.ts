/** A steady load for a long time: memory and latency stay what they are. */
import { duration, table } from '../support/format.js';
import { Service } from '../support/service.js';
import { quantile } from '../support/statistics.js';
import { Client, closedLoop, mixture, statusesOf } from './traffic.js';

const CONNECTIONS = 6;
const PARTS = 10;

export async function soak(seconds: number): Promise<string> {
  const service = await Service.start({ workers: 2 });
  const client = new Client(service.port);
  const rows: string[][] = [];
  try {
    for (let part = 0; part < PARTS; part++) {
      const options = { connections: CONNECTIONS, seconds: seconds / PARTS };
      const all = await closedLoop(client, mixture(), options);
      const { latencies } = all.small!;
      rows.push([
        duration(((part + 1) * seconds) / PARTS),
        Object.entries(statusesOf(all))
          .map(([status, n]) => `${status}: ${n}`)
          .join(', '),
        duration(quantile(latencies, 0.5) / 1000),
        duration(quantile(latencies, 0.99) / 1000),
        `${Math.round(service.resident() / 2 ** 20)} MiB`,
      ]);
    }
    return table(['after', 'answers', 'small, median', 'small, p99', 'resident'], rows, 2);
  } finally {
    client.close();
    await service.stop();
  }
}
