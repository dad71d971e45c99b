/** What the routes are given. */

import type { Engine } from '../../../engine/engine.js';
import type { Config } from '../../../settings.js';
import type { KnownTensors } from '../../../store/known-tensors.js';

export interface RouteOptions {
  readonly engine: Engine;
  readonly config: Config;
  readonly store: KnownTensors;
}
