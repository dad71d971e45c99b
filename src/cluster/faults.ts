/** What goes wrong with the store and with parts, by the messages of Redis, ioredis and BullMQ. */
import { Problem } from '../errors.js';
import { WorkerLostError } from '../pool/executor.js';
import { MISSING, UNWANTED } from './names.js';

export const isFull = ({ message }: Error): boolean => /\bOOM\b/.test(message);

/** Whether the store does not answer, or cannot read and write now. */
export const isAway = ({ message }: Error): boolean =>
  /Connection is closed|max retries|ECONN|EPIPE|ETIMEDOUT|timed out|isn't writeable/i.test(
    message,
  ) ||
  /\b(LOADING|READONLY|MISCONF|MASTERDOWN|CLUSTERDOWN|NOREPLICAS|BUSY|NOAUTH|WRONGPASS|NOPERM)\b/.test(
    message,
  );

export function storeFull(): Problem {
  return new Problem('store-full', 'The store of the queue is full. Try again in 10 s.', {
    headers: { 'retry-after': '10' },
  });
}

export function storeAway(): Problem {
  return new Problem('store-away', 'The store of the queue does not answer. Try again in 5 s.', {
    headers: { 'retry-after': '5' },
  });
}

/** The part has to run here: the queue cannot be used now. */
export class NoQueueError extends Error {}

/** The reason of a failed job as an error. */
export function failureOf(reason: string): Error {
  return /stalled|worker thread was lost/.test(reason)
    ? new WorkerLostError(`A part was lost: ${reason}`)
    : new Error(reason);
}

/** Why a part has no result. */
export function faultOf(error: Error): 'full' | 'missing' | 'lost' | 'away' | 'other' {
  const { message } = error;
  if (isFull(error)) return 'full';
  if (message === MISSING || message === UNWANTED) return 'missing';
  // It would end any thread that runs it.
  if (error instanceof WorkerLostError) return 'lost';
  // Any other failure says nothing about the part: if the part is at fault, it fails here, too.
  return error instanceof NoQueueError || isAway(error) ? 'away' : 'other';
}
