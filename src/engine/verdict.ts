/** What is kept of an answer when it has been written. */
import type { Verdict } from './messages.js';
import type { Answers } from './work.js';

type Error = (Answers['gradient'] | Answers['forward'])['error'];

/** null: it is no kernel's. */
export function verdictOf(answer: object): Verdict | null {
  const { method, threshold, fallback = false, error } = answer as Partial<Answers['gradient']>;
  if (!method || !threshold) return null;
  const belowThreshold = threshold.below_threshold;
  return { method, fallback, belowThreshold, largestError: error ? largestError(error) : null };
}

function largestError(error: Error): number | null {
  const upper = Object.values(error).map(
    ({ estimate }) => estimate?.upper ?? Number.NEGATIVE_INFINITY,
  );
  const largest = Math.max(...upper);
  return Number.isFinite(largest) ? largest : null;
}
