/** A small seeded generator (sfc32, a chaotic counter of 128 bits), the same on every machine. */
export class Random {
  #a: number;
  #b: number;
  #c = 0;
  #counter = 1;

  constructor(seed: number) {
    const whole = Math.trunc(seed);
    this.#a = whole | 0;
    this.#b = Math.floor(whole / 2 ** 32) | 0;
    // Until every bit of the seed has reached every bit of the state.
    for (let i = 0; i < 20; i++) this.#next();
  }

  #next(): number {
    const result = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + result) | 0;
    return result >>> 0;
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    const high = this.#next() >>> 5;
    return (high * 2 ** 26 + (this.#next() >>> 6)) / 2 ** 53;
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
