/** Keys of a list in memory of their own, as the passes over tiles take them. */
import type { Range } from '../../mask.js';
import type { ListedKeys } from '../attention/by-lists.js';
import type { AttentionMemory } from '../attention/memory.js';
import type { Wasm } from '../inner/instance.js';
import { type Drawn, sizeOf } from './draw.js';

/** Tiles are whole vectors: a list is padded to a multiple of this. */
const PADDED = 8;
const padded = (n: number) => PADDED * Math.ceil(n / PADDED);

/** What has an entry for each key, by name of the field; width in words of four bytes, of whatever type. */
type Gathered = readonly (readonly [
  name: 'k' | 'v' | 'us' | 'uv' | 'from' | 'to',
  width: number,
])[];

interface DrawnList extends ListedKeys {
  /** The keys, in memory that the next allocation may move. */
  readonly index: Int32Array;
}

export class Listed {
  readonly #wasm: Wasm;
  readonly #memory: AttentionMemory;
  readonly #index: number;
  readonly #gathered: Gathered;
  readonly #scattered: readonly (readonly [name: 'ls' | 'lv', width: number])[];
  readonly #own: AttentionMemory['fields'];

  /** @param capacity largest number of keys of a list. */
  constructor(
    wasm: Wasm,
    memory: AttentionMemory,
    readonly capacity: number,
  ) {
    const { fields } = memory;
    const { d, dv, ps, pv } = fields;
    const n = padded(capacity);
    const floats = (present: number, width: number) => (present ? wasm.allocFloats(n * width) : 0);
    const k = floats(fields.k, d);
    this.#wasm = wasm;
    this.#memory = memory;
    this.#index = wasm.alloc(4 * n);
    const same = fields.us === fields.k;
    this.#own = {
      ...fields,
      ...{
        k,
        v: floats(fields.v, dv),
        us: same ? k : floats(fields.us, ps),
        uv: floats(fields.uv, pv),
      },
      ...{
        ls: floats(fields.ls, ps),
        lv: pv ? floats(fields.lv, pv) : fields.lv,
        bias: floats(1, 1),
      },
      ...{ from: floats(fields.from, 1), to: floats(fields.to, 1) },
    };
    const all: Gathered = [
      ['k', d],
      ['v', dv],
      ['us', same ? 0 : ps],
      ['uv', pv],
      ['from', 1],
      ['to', 1],
    ];
    this.#gathered = all.filter(([name, width]) => fields[name] && width);
    const left = [
      ['ls', ps],
      ['lv', pv],
    ] as const;
    this.#scattered = left.filter(([name, width]) => fields[name] && width);
  }

  /** Near keys, and the drawn ones that stand for others: log2 of how many is added to their logits. */
  gather(near: Range, far: readonly Range[], { places, probability }: Drawn): DrawnList {
    const wasm = this.#wasm;
    const { fields } = this.#memory;
    const own = this.#own;
    const all = sizeOf(near);
    const count = all + places.length;
    const rows = padded(count);
    const index = wasm.i32(this.#index, count);
    const bias = wasm.f32(own.bias, rows).fill(0);
    for (let k = 0; k < all; k++) index[k] = near.first + k;
    const [before, after] = far;
    const split = sizeOf(before!);
    for (let k = 0; k < places.length; k++) {
      const place = places[k]!;
      index[all + k] = place < split ? before!.first + place : after!.first + place - split;
      bias[all + k] = -Math.log2(probability[k]!);
    }
    for (const [name, width] of this.#gathered) {
      wasm.fn.gather_rows(count, width, this.#index, fields[name], own[name]);
      wasm.f32(own[name] + 4 * count * width, (rows - count) * width).fill(0);
    }
    for (const [name, width] of this.#scattered) wasm.f32(own[name], rows * width).fill(0);
    return {
      memory: { ...this.#memory, fields: own, windows: [{ first: 0, count }] },
      index,
      count,
      scatter: () => {
        for (const [name, width] of this.#scattered) {
          wasm.fn.scatter_rows(count, width, this.#index, own[name], fields[name]);
        }
      },
    };
  }
}
