/** Which far keys a block meets: a systematic draw in the order of the keys. */
import type { Range } from '../../mask.js';
import type { Wasm } from '../inner/instance.js';

/** Share of the probability that no proxy decides. */
const EVEN = 0.02;
/** Least probability of a key: its weight 1 / pi is to stay far from the end of float32. */
const LEAST_PROBABILITY = 2 ** -14;

/** Drawn keys, rising, as places among the far keys, and their probabilities. */
export interface Drawn {
  readonly places: Int32Array;
  readonly probability: Float64Array;
}

/** Far keys of a block one after the other, and what each is worth: p_j = share worth_j + even. */
export interface Worths {
  readonly far: readonly Range[];
  readonly count: number;
  /** Address of float64 numbers. */
  readonly worth: number;
  readonly share: number;
  readonly even: number;
}

export const sizeOf = ({ first, last }: Range): number => last - first;

/** With which a key is drawn, as `draw_keys` does. */
export const probabilityOf = ({ share, even }: Worths, worth: number, scale: number): number =>
  Math.min(1, Math.max(LEAST_PROBABILITY, scale * (share * worth + even)));

export class KeyDraw {
  readonly #wasm: Wasm;
  readonly #room: number;
  readonly #spread: number;
  readonly #worth: number;
  readonly #places: number;
  readonly #probability: number;

  /** @param spread of all keys. @param room for so many drawn keys. */
  constructor(wasm: Wasm, spread: Float32Array, room: number) {
    this.#wasm = wasm;
    this.#room = room;
    this.#spread = wasm.put(spread);
    this.#worth = wasm.alloc(8 * spread.length);
    this.#places = wasm.alloc(4 * room);
    this.#probability = wasm.alloc(8 * room);
  }

  /** p_j of far keys, mixed with their mean. @param squares p_j^2 / spread_j^2 of all keys. */
  weigh(squares: number, far: readonly Range[]): Worths {
    let [total, count] = [0, 0];
    for (const range of far) {
      const [n, worth] = [sizeOf(range), this.#worth + 8 * count];
      const [at, spread] = [squares, this.#spread].map((x) => x + 4 * range.first);
      total += this.#wasm.fn.key_worths(n, at!, spread!, worth);
      count += n;
    }
    const even = (EVEN * total) / Math.max(1, count);
    return { far, count, worth: this.#worth, share: 1 - EVEN, even };
  }

  /**
   * Draws key j with probability pi_j = min(1, scale p_j).
   *
   * @param u uniform in [0, 1). @returns null: there are more than there is room for.
   */
  draw({ count, worth, share, even }: Worths, scale: number, u: number): Drawn | null {
    const wasm = this.#wasm;
    const [places, probability] = [this.#places, this.#probability];
    const drawn = wasm.fn.draw_keys(
      ...([count, this.#room, share, even, scale, LEAST_PROBABILITY, u] as const),
      ...([worth, places, probability] as const),
    );
    if (drawn > this.#room) return null;
    return { places: wasm.i32(places, drawn), probability: wasm.f64(probability, drawn) };
  }
}
