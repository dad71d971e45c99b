/**
 * The operations of the inner loops, declared once. Each is a function of assembly/ (WebAssembly) and one of
 * native/src (C) under the same name, with the arguments in this order: addresses in bytes, leading dimensions
 * in elements.
 */

import { LOW_RANK } from './low-rank.js';
import type { Callable } from './operation.js';
import { PASSES } from './passes.js';
import { PRODUCTS } from './products.js';
import { PROXIES } from './proxies.js';
import { ROWS_OF_NUMBERS } from './rows.js';

export const OPERATIONS = { ...PRODUCTS, ...ROWS_OF_NUMBERS, ...PASSES, ...PROXIES, ...LOW_RANK };

export type OperationName = keyof typeof OPERATIONS;

export type Operations = {
  readonly [N in OperationName]: Callable<(typeof OPERATIONS)[N]>;
};
