/** Which kernel computes a problem, and why. */

/** Below this relative error float32 can promise nothing. */
const FLOAT32_TOLERANCE = 1e-5;

export interface Choice {
  /** exact: float32 inner loops; reference: float64. Both are exact up to rounding. */
  readonly kernel: 'exact' | 'reference';
  /** One sentence. */
  readonly reason: string;
}

export function chooseKernel(tolerance: number): Choice {
  if (tolerance >= FLOAT32_TOLERANCE) {
    return { kernel: 'exact', reason: 'The exact kernel computes every problem.' };
  }
  return {
    kernel: 'reference',
    reason: `The tolerance of ${tolerance} is below what float32 can keep (${FLOAT32_TOLERANCE}): computed in float64.`,
  };
}
