/** Browsers and Deno: their fetch waits as long as the service does. */
import { fetching, type Transport } from './transport.js';

export const transport: Transport = fetching((input, init) => globalThis.fetch(input, init));
