/**
 * One client cannot keep others out: where a limit is reached there is a reserve as large again, for clients that have less than
 * their share of it.
 */

interface Holding {
  /** What all may hold. */
  readonly limit: number;
  /** What the client would hold itself. */
  readonly mine: number;
  /** Other clients that hold something. */
  readonly others: number;
}

/** How much all may hold when this client takes what it wants. */
export function limitFor({ limit, mine, others }: Holding): number {
  return others > 0 && mine <= Math.ceil(limit / (others + 1)) ? 2 * limit : limit;
}
