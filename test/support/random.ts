/** Seeded random numbers for tests, and the one seed that all random tests take. */
export interface Random {
  /** Uniform in [0, 1). */
  uniform(): number;
  /** Standard normal. */
  normal(): number;
  /** Integer in [low, high]. */
  integer(low: number, high: number): number;
}

const given = process.env.LORAGRAD_TEST_SEED;
const drawn = Date.now() % 2 ** 31;

/**
 * The value of LORAGRAD_TEST_SEED. Where it is not set: `usual`, for tests whose statement is about a fixed
 * set of problems, or else a new one in each process. It is printed, so that a failure can be repeated.
 */
export function testSeed(usual = drawn): number {
  const seed = given === undefined ? usual : Number(given);
  console.log(`# LORAGRAD_TEST_SEED=${seed}`);
  return seed;
}

/** Uniform in [0, 1): mulberry32. */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal: Box-Muller. */
export function normal(seed: number): () => number {
  return seededRandom(seed).normal;
}

export function seededRandom(seed: number): Random {
  const next = uniform(seed);
  return {
    uniform: next,
    normal: () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
    integer: (low, high) => low + Math.floor(next() * (high - low + 1)),
  };
}
