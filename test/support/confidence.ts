/** Limits of 99 % confidence: one may be missed by chance, many may not. */
import assert from 'node:assert/strict';

const CONFIDENCE = 0.99;
/** A right limit fails a test less often than this. */
const BY_CHANCE = 1e-6;
/** Errors of so many times the limit, some eight standard errors, are no chance either. */
const FAR_BEYOND = 3;

/** The fewest misses of n limits that are no chance: the tail of the binomial distribution. */
function tooMany(n: number): number {
  let [likely, before] = [CONFIDENCE ** n, 0];
  for (let k = 0; ; k++) {
    before += likely;
    if (1 - before < BY_CHANCE) return k + 1;
    likely *= ((n - k) / (k + 1)) * (1 / CONFIDENCE - 1);
  }
}

/** @param ratios of true errors to limits, each from a sample of its own. */
export function assertLimits(ratios: readonly number[], what: string): void {
  const missed = ratios.filter((ratio) => !(ratio <= 1));
  assert.ok(
    missed.length < tooMany(ratios.length),
    `${what}: ${missed.length} of ${ratios.length} missed`,
  );
  const worst = Math.max(...ratios);
  assert.ok(worst < FAR_BEYOND, `${what}: ${worst} times the limit`);
}
