import type { DenseColumns } from './dense.js';
import type { Layout } from './layout.js';
import type { QueryBlock } from './queries.js';
import type { Workspace } from './rows.js';
export interface QueryCertificate {
  readonly x: number;
}
export function certifyQueries(
  _s: Workspace,
  _a: Layout,
  _b: QueryBlock,
  _d: DenseColumns[],
  _c: QueryCertificate,
): void {}
