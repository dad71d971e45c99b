/** What the routes are given. */
import type { Config } from '../../../config.js';
import type { Engine } from '../../../engine/engine.js';
import type { TensorStore } from '../../../store/tensor-store.js';

export interface RouteOptions {
  readonly engine: Engine;
  readonly config: Config;
  readonly store: TensorStore;
}
