/** What goes wrong with a store, by the messages of Redis and ioredis. */
import { Problem } from '../errors.js';

export const isFull = ({ message }: Error): boolean => /\bOOM\b/.test(message);

/** It does not answer, or cannot do now what it is there for. */
export const isAway = ({ message }: Error): boolean =>
  /Connection is closed|max retries|ECONN|EPIPE|ETIMEDOUT|timed out|isn't writeable/i.test(
    message,
  ) ||
  /\b(LOADING|READONLY|MISCONF|MASTERDOWN|CLUSTERDOWN|NOREPLICAS|BUSY|NOAUTH|WRONGPASS|NOPERM)\b/.test(
    message,
  );

export function storeFull(): Problem {
  return new Problem('store-full', 'The store of the queue is full. Try again later.', {
    headers: { 'retry-after': '10' },
  });
}

export function storeAway(): Problem {
  return new Problem('store-away', 'The store of the queue does not answer. Try again later.', {
    headers: { 'retry-after': '5' },
  });
}
