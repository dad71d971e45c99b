/** Keys of a list in memory of their own, as the passes over tiles take them. */
import type { ListedKeys } from '../attention/by-lists.js';
import type { AttentionMemory } from '../attention/memory.js';
import type { Wasm } from '../inner/instance.js';

/** Tiles end with whole vectors: so many keys must exist. */
const PADDED = 8;
const padded = (n: number) => PADDED * Math.ceil(n / PADDED);

/** What has an entry for each key, by name of the field; width in words. */
type Gathered = readonly (readonly [name: 'k' | 'v' | 'us' | 'uv', width: number])[];

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
    ];
    this.#gathered = all.filter(([name, width]) => fields[name] && width);
    const left = [
      ['ls', ps],
      ['lv', pv],
    ] as const;
    this.#scattered = left.filter(([name, width]) => fields[name] && width);
  }

  /** @param index keys of the list. @param weight each counts for so many: log2(weight) is added to its logits. */
  gather(index: Int32Array, weight: (k: number) => number): ListedKeys {
    const wasm = this.#wasm;
    const { fields } = this.#memory;
    const own = this.#own;
    const count = index.length;
    const all = padded(count);
    wasm.i32(this.#index, count).set(index);
    for (const [name, width] of this.#gathered) {
      wasm.fn.gather_rows(count, width, this.#index, fields[name], own[name]);
      wasm.f32(own[name], all * width).fill(0, count * width);
    }
    const bias = wasm.f32(own.bias, all).fill(0, count);
    for (let k = 0; k < count; k++) bias[k] = Math.log2(weight(k));
    for (const name of own.from ? (['from', 'to'] as const) : []) {
      const ofAll = new Int32Array(wasm.buffer, fields[name]);
      const mine = wasm.i32(own[name], count);
      for (let k = 0; k < count; k++) mine[k] = ofAll[index[k]!]!;
    }
    for (const [name, width] of this.#scattered) wasm.f32(own[name], all * width).fill(0);
    return {
      memory: { ...this.#memory, fields: own, windows: [{ first: 0, count }] },
      count,
      scatter: () => {
        for (const [name, width] of this.#scattered) {
          wasm.fn.scatter_rows(count, width, this.#index, own[name], fields[name]);
        }
      },
    };
  }
}
