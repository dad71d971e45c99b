/** API nodes of one queue, in this process, for all tests of a file. */
import { after, before } from 'node:test';
import { type RunningServer, startServer } from '../support/processes/server.js';
import { type Store, startStore, withoutStore } from './store.js';

export const [ALICE, BOB] = ['a-key-of-sixteen-and-more', 'another-key-as-long-as-it'];

export interface ApiNodes {
  readonly store: Store;
  readonly nodes: readonly RunningServer[];
  /** One more, which the caller closes. */
  add(settings: NodeJS.ProcessEnv): Promise<RunningServer>;
}

/** @param settings of each node. They are there when the tests begin, if there is a store. */
export function apiNodes(...settings: readonly NodeJS.ProcessEnv[]): ApiNodes {
  let store: Store;
  const nodes: RunningServer[] = [];
  const add = (own: NodeJS.ProcessEnv) =>
    startServer({ LORAGRAD_WORKERS: '1', LORAGRAD_QUEUE_URL: store.url, ...own });
  before(async () => {
    if (withoutStore) return;
    store = await startStore();
    for (const own of settings) nodes.push(await add(own));
  });
  after(async () => {
    if (withoutStore) return;
    await Promise.all(nodes.map((node) => node.close()));
    await store.close();
  });
  return {
    nodes,
    add,
    get store() {
      return store;
    },
  };
}
