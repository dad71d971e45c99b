/** A small seeded generator (xorshift128+ seeded by splitmix64), the same on every machine. */
export class Random {
  #a: bigint;
  #b: bigint;

  constructor(seed: number) {
    let state = BigInt.asUintN(64, BigInt(Math.trunc(seed)));
    const next = () => {
      state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n);
      let z = state;
      z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
      z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
      return z ^ (z >> 31n);
    };
    this.#a = next();
    this.#b = next() || 1n;
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    let x = this.#a;
    const y = this.#b;
    this.#a = y;
    x = BigInt.asUintN(64, x ^ (x << 23n));
    this.#b = x ^ y ^ (x >> 17n) ^ (y >> 26n);
    return Number(BigInt.asUintN(64, this.#b + y) >> 11n) / 2 ** 53;
  }

  integer(below: number): number {
    return Math.floor(this.uniform() * below);
  }

  /** k different integers below n, in rising order. */
  sample(n: number, k: number): Int32Array {
    if (k >= n) return Int32Array.from({ length: n }, (_, i) => i);
    const chosen = new Set<number>();
    for (let i = n - k; i < n; i++) {
      const candidate = this.integer(i + 1);
      chosen.add(chosen.has(candidate) ? i : candidate);
    }
    return Int32Array.from(chosen).sort();
  }
}
