/** What the routes are given. */
import type { Config } from '../../config.js';
import type { Executor } from '../../pool/executor.js';
import type { TensorStore } from '../../store/tensor-store.js';

export interface RouteOptions {
  readonly executor: Executor;
  readonly config: Config;
  readonly store: TensorStore;
}
