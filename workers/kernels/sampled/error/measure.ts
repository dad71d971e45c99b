/** A drawn block beside the same block with all its keys: how far its contributions to the gradients are off. */
import type { Checkpoint } from '../../../job.js';
import type { AttentionMemory } from '../../attention/memory.js';
import type { Partitions, RowBlock } from '../../attention/task.js';
import type { Wasm } from '../../inner/instance.js';
import type { Worths } from '../draw.js';
import { KeySquares } from '../key-squares.js';
import { joinKeys, type KeySums, makeKeySums } from '../plan/scale.js';
import { Apart } from './apart.js';
import { Contributions, type Narrowed, squareOf } from './contributions.js';
import { makeSinkSums, SinkErrors, type SinkSums } from './sinks.js';
import type { Role, Tables } from './tables.js';

/** What one block shows; what it does not name has no error. */
export interface MeasuredBlock {
  /** With which it was chosen. */
  readonly probability: number;
  /** Squares of its error, by role and by tensor. */
  readonly roles: Readonly<Partial<Record<Role, number>>>;
  readonly tensors: Readonly<Record<string, number>>;
  /** Short random projections of the error of each tensor: their inner products are about those of the errors. */
  readonly signatures: Readonly<Record<string, Float32Array>>;
}

/** A block that has all its keys. */
export const withoutError = (probability: number): MeasuredBlock => ({
  ...{ probability, roles: {}, tensors: {}, signatures: {} },
});

export interface Measurements {
  readonly blocks: MeasuredBlock[];
  /** Blocks that have not all their keys, measured or not. */
  drawn: number;
  /** What keys add to all blocks, extrapolated. */
  readonly keys: KeySums;
  /** What draws do to the gradients of sinks. */
  readonly sinks: SinkSums;
}

/** @param heads of the whole problem. */
export const makeMeasurements = (heads: number): Measurements => ({
  ...{ blocks: [], drawn: 0, keys: makeKeySums(), sinks: makeSinkSums(heads) },
});

/** What is measured: a part of a problem. */
interface Measured extends Partitions {
  readonly tables: Tables;
  readonly origin: { readonly batchItem: number; readonly head: number };
  readonly sampled: { readonly scale: number };
}

export class Measure {
  readonly #apart: Apart;
  readonly #contributions: Contributions;
  readonly #squares: KeySquares;
  /** null: there are no sinks. */
  readonly sinks: SinkErrors | null;

  constructor(
    readonly task: Measured,
    wasm: Wasm,
    memory: AttentionMemory,
    readonly checkpoint: Checkpoint,
  ) {
    const { tables } = task;
    this.#apart = new Apart(task, wasm, memory);
    this.#contributions = new Contributions(task, wasm, tables);
    this.#squares = new KeySquares(task, wasm, tables);
    this.sinks = task.plan.problem.sinks ? new SinkErrors(task, wasm) : null;
  }

  /**
   * Called before a block is attended to.
   *
   * @returns what to call after it, with the memory of its list.
   */
  begin(rows: RowBlock, probability: number, to: Measurements) {
    const before = this.#apart.before(rows);
    return (memory: AttentionMemory, index: Int32Array, worths: Worths) => {
      const drawn = this.#contributions.of(rows, this.#apart.since(before, rows, memory, index));
      const products = this.#apart.whole(rows, this.checkpoint);
      const each = 1 / probability;
      this.#squares.load(rows, products);
      this.#squares.addTo(to.keys, worths, each);
      const whole = this.#contributions.of(rows, products);
      const { origin, sampled } = this.task;
      const item = origin.batchItem + rows.partition.headGroup.batchItem;
      const head = origin.head + rows.partition.head;
      this.sinks?.addMeasured(rows, products, worths, sampled.scale, each, head, to.sinks);
      const less = <K extends string>(
        x: Readonly<Partial<Record<K, Narrowed>>>,
        y: typeof x,
      ): [K, Narrowed][] =>
        (Object.entries(x) as [K, Narrowed][]).map(([name, all]) => [
          name,
          difference(all, y[name]!),
        ]);
      const errors = less(whole.tensors, drawn.tensors);
      to.blocks.push({
        probability,
        roles: squaresOf(less(whole.roles, drawn.roles)),
        tensors: squaresOf(errors),
        signatures: Object.fromEntries(
          errors.map(([name, x]) => [name, signature(x, placeOf(name, item, head))]),
        ),
      });
    };
  }
}

function difference(x: Narrowed, y: Narrowed): Narrowed {
  const out = new Float32Array(x.length);
  for (let k = 0; k < out.length; k++) out[k] = x[k]! - y[k]!;
  return out;
}

const squaresOf = <K extends string>(all: readonly [K, Narrowed][]) =>
  Object.fromEntries(all.map(([name, x]) => [name, squareOf(x)])) as Record<K, number>;

/** Heads of batch items whose contributions have no element in common; lora_A is one sum over all. */
const placeOf = (tensor: string, batchItem: number, head: number) =>
  tensor.endsWith('.lora_A') ? 0 : tensor.endsWith('.lora_B') ? head : 65536 * batchItem + head;

/** Numbers of a signature. */
const SIGNATURE = 128;

/** Sums of x with random signs, those of the place. */
function signature(x: Narrowed, place: number): Float32Array {
  const out = new Float32Array(SIGNATURE);
  let state = (0x9e3779b9 ^ Math.imul(place + 1, 0x85ebca6b)) | 1;
  for (let k = 0; k < x.length; k++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    out[k % SIGNATURE]! += state & 1 ? x[k]! : -x[k]!;
  }
  return out;
}

/** Adds what other blocks say. */
export function joinMeasurements(to: Measurements, from: Measurements): void {
  to.blocks.push(...from.blocks);
  to.drawn += from.drawn;
  joinKeys(to.keys, from.keys);
  joinKeys(to.sinks.byDrawn, from.sinks.byDrawn);
  joinKeys(to.sinks.byMeasured, from.sinks.byMeasured);
}
