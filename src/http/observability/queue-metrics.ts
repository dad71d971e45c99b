/** What an API node knows of its queue, for Prometheus. */
import { Gauge, type Registry } from 'prom-client';
import type { QueueFigures } from '../../cluster/queue-executor.js';

const HELP: Readonly<Record<keyof QueueFigures, readonly [name: string, help: string]>> = {
  workers: ['loragrad_queue_workers', 'Workers of the queue'],
  waiting: ['loragrad_queue_waiting', 'Parts of problems that no worker has begun'],
  active: ['loragrad_queue_active', 'Parts of problems that workers have begun'],
  partsSent: ['loragrad_queue_parts_sent', 'Parts done by workers since the start'],
  partsHere: ['loragrad_queue_parts_here', 'Parts done by this node since the start'],
  bytesSent: ['loragrad_queue_sent_bytes', 'Bytes of tensors sent to the store'],
  bytesReceived: ['loragrad_queue_received_bytes', 'Bytes of tensors that came from the store'],
  roundTrips: ['loragrad_queue_round_trips', 'Commands to the store for tensors'],
};

/** @param read null: there is no queue; then the metrics are 0. */
export function queueMetrics(registry: Registry, read: () => QueueFigures | null): void {
  for (const [figure, [name, help]] of Object.entries(HELP)) {
    new Gauge({
      ...{ name, help, registers: [registry] },
      collect() {
        this.set(read()?.[figure as keyof QueueFigures] ?? 0);
      },
    });
  }
}
