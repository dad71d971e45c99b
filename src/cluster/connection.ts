/** Connections to the store. They come back by themselves. */
import { Redis } from 'ioredis';

/** Between two attempts to connect, ms; attempts that a command waits for. */
const RETRY_MS = 200;
const RETRIES = 10;
const CONNECT_MS = 5000;
/** How long an answer of the store is waited for, ms. */
const TIMELY_MS = 5000;

const OPTIONS = {
  connectTimeout: CONNECT_MS,
  keepAlive: 10_000,
  retryStrategy: () => RETRY_MS,
};

/** Its commands fail when the store stays away, or does not answer in time. */
export function connect(url: string): Redis {
  const connection = new Redis(url, {
    ...OPTIONS,
    maxRetriesPerRequest: RETRIES,
    commandTimeout: TIMELY_MS,
  });
  // The commands that fail say so; without a listener each error would be printed.
  connection.on('error', () => {});
  return connection;
}

/** For BullMQ, which opens and closes connections of its own. */
export const connection = (url: string) => ({ ...OPTIONS, url, maxRetriesPerRequest: null });

/** For BullMQ, whose commands wait until the store is back. @throws {Error} when it does not answer in time. */
export function timely<T>(answer: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('ETIMEDOUT: the store does not answer')), TIMELY_MS);
  });
  return Promise.race([answer, late]).finally(() => clearTimeout(timer));
}
