/** A store and a node of its queue, in this process, and workers: for all test files of this process. */
import { after, before } from 'node:test';
import type { QueueExecutor } from '../../src/cluster/queue-executor.js';
import { knows, startNode, startWorker, type WorkerProcess } from './nodes.js';
import { type Store, startStore, withoutStore } from './store.js';

let store: Store;
let node: QueueExecutor;
const workers: WorkerProcess[] = [];

before(async () => {
  if (withoutStore) return;
  store = await startStore();
  node = await startNode(store.url);
});
after(async () => {
  if (withoutStore) return;
  await Promise.all(workers.map((worker) => worker.end()));
  await node.close();
  await store.close();
});

/** They are there when the tests begin, if there is a store. */
export const cluster = {
  get store() {
    return store;
  },
  get node() {
    return node;
  },
  /** Those that are in the list at the end are ended. */
  workers,

  /** Starts workers, or ends some, until the node knows so many. */
  async have(count: number): Promise<void> {
    await Promise.all(workers.splice(count).map((worker) => worker.end()));
    const missing = Array.from({ length: count - workers.length }, () => startWorker(store.url));
    workers.push(...(await Promise.all(missing)));
    await knows(node, count);
  },
};
