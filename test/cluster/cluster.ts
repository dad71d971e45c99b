/** A store and a node of its queue, in this process, and workers, for all tests of a file. */
import { after, before } from 'node:test';
import type { QueueExecutor } from '../../src/cluster/queue-executor.js';
import { knows, startNode, startWorker, type WorkerProcess } from './nodes.js';
import { type Store, startStore, withoutStore } from './store.js';

export interface Cluster {
  readonly store: Store;
  readonly node: QueueExecutor;
  /** Those that are in the list at the end are ended. */
  readonly workers: WorkerProcess[];
  addWorker(): Promise<WorkerProcess>;
}

/** @param count workers that the node knows when the tests begin, if there is a store. */
export function startCluster(count = 0): Cluster {
  let store: Store;
  let node: QueueExecutor;
  const workers: WorkerProcess[] = [];
  const addWorker = async () => {
    const worker = await startWorker(store.url);
    workers.push(worker);
    return worker;
  };
  before(async () => {
    if (withoutStore) return;
    store = await startStore();
    const all = Array.from({ length: count }, addWorker);
    [node] = await Promise.all([startNode(store.url), ...all]);
    await knows(node, count);
  });
  after(async () => {
    if (withoutStore) return;
    await Promise.all(workers.map((worker) => worker.end()));
    await node.close();
    await store.close();
  });
  return {
    workers,
    addWorker,
    get store() {
      return store;
    },
    get node() {
      return node;
    },
  };
}
