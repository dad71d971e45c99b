/**
 * Two levels of drawing: keys among which a block draws, so that it need not look at all of them. With q_j the root mean square
 * of p_j over the blocks of a group, told from some of its rows, key j is a candidate of a block with probability
 * min(1, OVERSAMPLING c q_j), and of its candidates the block draws so many that in all
 *
 *     pi_j = min(1, c min(p_j, OVERSAMPLING q_j))
 *
 * The blocks of a group share q_j but no draw: their errors stay independent.
 */
import { keysOfRows, type Masked, type Range } from '../../mask.js';
import type { RowBlock } from '../attention/task.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import type { Random } from '../random.js';
import { type Drawn, EVEN, KeyDraw, keyAt, type Worths } from './draw.js';
import type { KeyProxy } from './proxy.js';

/** Blocks of a group. */
export const GROUP = 8;
/** Candidates over the keys that a block is to draw of them. */
export const OVERSAMPLING = 8;
/** Share of q_j that is spread evenly: a row may want keys that no row beside it wants. */
const EVEN_OF_GROUP = 0.1;

/** Rows of the group that a block is in, and those of them that tell what keys are worth: as many as a block has. */
export function rowsOfGroup(block: number, queryLength: number) {
  const first = Math.floor(block / GROUP) * GROUP * ROWS;
  const last = Math.min(queryLength, first + GROUP * ROWS);
  const count = Math.ceil((last - first) / GROUP);
  return { first, last, picked: Array.from({ length: count }, (_, k) => first + k * GROUP) };
}

/** Draws the far keys of the blocks of a head. */
export interface Levels {
  /** Null: there are more keys than there is room for. */
  draw(block: BlockOfKeys, scale: number, random: Random): Drawn | null;
  /** All far keys of a block: pi_j is min(1, scale times these). */
  worths(block: BlockOfKeys): Worths;
}

/** A block, its near keys and the others that it sees. */
export interface BlockOfKeys {
  readonly rows: RowBlock;
  readonly near: Range;
  readonly far: readonly Range[];
}

export class OneLevel implements Levels {
  readonly #proxy: KeyProxy;
  readonly #keys: KeyDraw;

  /** @param spread of all keys. @param room for so many drawn keys. */
  constructor(wasm: Wasm, proxy: KeyProxy, spread: Float32Array, room: number) {
    this.#proxy = proxy;
    this.#keys = new KeyDraw(wasm, spread, room);
  }

  draw(block: BlockOfKeys, scale: number, random: Random): Drawn | null {
    return this.#keys.draw(this.worths(block), scale, random.uniform());
  }

  worths({ rows, near, far }: BlockOfKeys): Worths {
    return this.#keys.weigh(far, this.#proxy.weigh(rows, near, far));
  }

  /** Draws from keys whose worths are known. */
  drawFrom(worths: Float64Array, scale: number, random: Random): Drawn | null {
    return this.#keys.draw(this.#keys.take(worths), scale, random.uniform());
  }
}

export class TwoLevels implements Levels {
  readonly #problem: Masked;
  readonly #batchItem: number;
  readonly #wasm: Wasm;
  readonly #proxy: KeyProxy;
  readonly #spread: Float32Array;
  readonly #candidates: KeyDraw;
  readonly #one: OneLevel;
  /** Of the group whose number is `group`: q_j^2 / spread_j^2 of all keys. */
  readonly #squares: number;
  #group = -1;
  readonly #index: number;

  /** @param spread of all keys. @param room for so many candidates. */
  constructor(
    problem: Masked,
    batchItem: number,
    wasm: Wasm,
    proxy: KeyProxy,
    spread: Float32Array,
    room: number,
  ) {
    this.#problem = problem;
    this.#batchItem = batchItem;
    this.#wasm = wasm;
    this.#proxy = proxy;
    this.#spread = spread;
    this.#candidates = new KeyDraw(wasm, spread, room, EVEN_OF_GROUP);
    this.#one = new OneLevel(wasm, proxy, spread, room);
    this.#squares = wasm.allocFloats(spread.length);
    this.#index = wasm.alloc(4 * room);
  }

  draw(block: BlockOfKeys, scale: number, random: Random): Drawn | null {
    const { rows, near, far } = block;
    const ofGroup = this.#ofGroup(block);
    const first = this.#candidates.draw(ofGroup, OVERSAMPLING * scale, random.uniform());
    if (!first) return null;
    const { places, probability } = first;
    this.#proxy.load(rows, near, far);
    const worths = this.#worthsOf(first, far, ofGroup.count);
    const drawn = this.#one.drawFrom(worths, scale, random);
    return (
      drawn && {
        places: drawn.places.map((k) => places[k]!),
        probability: drawn.probability.map((pi, k) => pi * probability[drawn.places[k]!]!),
      }
    );
  }

  /** p_j of candidates, over the probability that they are some. */
  #worthsOf({ places, probability }: Drawn, far: readonly Range[], all: number): Float64Array {
    const wasm = this.#wasm;
    const count = places.length;
    const keyOf = keyAt(far);
    const index = wasm.i32(this.#index, count);
    for (let k = 0; k < count; k++) index[k] = keyOf(places[k]!);
    const squares = wasm.f32(this.#proxy.weighSome(this.#index, count), count);
    const worths = new Float64Array(count);
    let total = 0;
    for (let k = 0; k < count; k++) {
      worths[k] = (this.#spread[index[k]!]! * Math.sqrt(squares[k]!)) / probability[k]!;
      total += worths[k]!;
    }
    const even = (EVEN * total) / all;
    for (let k = 0; k < count; k++) worths[k] = (1 - EVEN) * worths[k]! + even / probability[k]!;
    return worths;
  }

  worths(block: BlockOfKeys): Worths {
    return this.limit(block, this.#one.worths(block));
  }

  /** min(p_j, OVERSAMPLING q_j) in place of the p_j of all far keys of a block. */
  limit(block: BlockOfKeys, { worth, share, even, ...rest }: Worths): Worths {
    const { count } = rest;
    const ofGroup = this.#ofGroup(block);
    const [p, q] = [worth, ofGroup.worth].map((at) => this.#wasm.f64(at, count));
    for (let k = 0; k < count; k++) {
      const most = OVERSAMPLING * (ofGroup.share * q![k]! + ofGroup.even);
      p![k] = Math.min(share * p![k]! + even, most);
    }
    return { ...rest, worth, share: 1, even: 0 };
  }

  /** What far keys of a block are worth to its group. */
  #ofGroup({ rows: { first }, far }: BlockOfKeys): Worths {
    const block = first / ROWS;
    const group = Math.floor(block / GROUP);
    if (group !== this.#group) {
      const { picked, ...rows } = rowsOfGroup(block, this.#problem.dims.queryLength);
      const seen = keysOfRows(this.#problem, this.#batchItem, rows);
      this.#proxy.weighAll(picked, seen, this.#squares + 4 * seen.first);
      this.#group = group;
    }
    return this.#candidates.weigh(far, (range) => this.#squares + 4 * range.first);
  }
}
