/** Where the algebra of a plan breaks down: numbers that overflow, or that a decomposition cannot take. */

/** Thrown by a task; the job that asked for it sees it again, from `stage`. */
export class NumericError extends Error {
  override readonly name = 'NumericError';
}

/** What a task returns in its place: threads strip errors. */
export interface NumericFailure {
  readonly numericFailure: string;
}

/** Runs a task whose algebra may break down. */
export function withNumericFailure<Result>(run: () => Result): Result | NumericFailure {
  try {
    return run();
  } catch (error) {
    if (error instanceof NumericError) return { numericFailure: error.message };
    throw error;
  }
}

/** @throws {NumericError} when one of the results of a stage is a failure. */
export function requireNumbers(results: readonly unknown[]): void {
  for (const result of results) {
    if (typeof result === 'object' && result !== null && 'numericFailure' in result) {
      throw new NumericError(String(result.numericFailure));
    }
  }
}
