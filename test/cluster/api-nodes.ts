/** API nodes of one queue, in this process, for all tests of a file. */
import { after, before } from 'node:test';
import { type RunningServer, startServer } from '../support/processes/server.js';
import { type Store, startStore, withoutStore } from './store.js';

export const [ALICE, BOB] = ['a-key-of-sixteen-and-more', 'another-key-as-long-as-it'];

export interface ApiNodes {
  readonly store: Store;
  readonly nodes: readonly RunningServer[];
}

/** @param settings of each node. They are there when the tests begin, if there is a store. */
export function apiNodes(...settings: readonly NodeJS.ProcessEnv[]): ApiNodes {
  let store: Store;
  const nodes: RunningServer[] = [];
  before(async () => {
    if (withoutStore) return;
    store = await startStore();
    for (const own of settings) {
      const all = { LORAGRAD_QUEUE_URL: store.url };
      nodes.push(await startServer({ ...all, ...own }));
    }
  });
  after(async () => {
    if (withoutStore) return;
    await Promise.all(nodes.map((node) => node.close()));
    await store.close();
  });
  return {
    nodes,
    get store() {
      return store;
    },
  };
}
