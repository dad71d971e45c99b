/** What goes wrong with a store, by the messages of Redis and ioredis. */
import { Problem } from '../errors.js';

export const isFull = ({ message }: Error): boolean => /\bOOM\b/.test(message);

export const isAway = ({ message }: Error): boolean =>
  /Connection is closed|max retries|ECONN|EPIPE|ETIMEDOUT|isn't writeable|LOADING/i.test(message);

export function storeFull(): Problem {
  return new Problem('store-full', 'The store of the queue is full. Try again later.', {
    headers: { 'retry-after': '10' },
  });
}
