/**
 * Where a pre-scan stands in a body, and what it has counted: shared by the MessagePack and the JSON
 * scanner. Memory grows with depth and with map keys, which are limited, and never with elements.
 */

import { quote } from './tree/quote.js';
import { appendPointer, placeName, WireError } from './tree/wire-error.js';
import type { WireLimits } from './tree/wire-limits.js';

export class ScanState {
  readonly limits: WireLimits;
  depth = 0;
  private keys = 0;
  private maps = 0;
  private arrays = 0;
  private elements = 0;
  /** Per level: the keys seen so far of a map, null for an array. */
  private readonly seen: (Set<string> | null)[] = [];
  /** Per level: the current key of a map. */
  private readonly key: string[] = [];
  /** Per level: the index of the current element of an array, -1 before the first. */
  private readonly index: number[] = [];

  constructor(limits: WireLimits) {
    this.limits = limits;
  }

  enter(kind: 'map' | 'array'): void {
    if (this.depth >= this.limits.maxDepth) {
      this.exceeded('maxDepth', this.depth + 1, 'levels of nesting');
    }
    if (kind === 'map') {
      this.maps += 1;
      if (this.maps > this.limits.maxKeys) this.exceeded('maxKeys', this.maps, 'maps');
    } else {
      this.arrays += 1;
      if (this.arrays > this.limits.maxArrays) this.exceeded('maxArrays', this.arrays, 'arrays');
    }
    this.seen[this.depth] = kind === 'map' ? new Set() : null;
    this.key[this.depth] = '';
    this.index[this.depth] = -1;
    this.depth += 1;
  }

  leave(): void {
    this.depth -= 1;
  }

  /** The next `count` map entries are on their way, as far as a header says. */
  countKeys(count: number): void {
    this.keys += count;
    if (this.keys > this.limits.maxKeys) this.exceeded('maxKeys', this.keys, 'map entries');
  }

  countElements(count: number): void {
    this.elements += count;
    if (this.elements > this.limits.maxElements) {
      this.exceeded('maxElements', this.elements, 'array elements');
    }
  }

  checkKeyLength(bytes: number): void {
    if (bytes > this.limits.maxKeyBytes) {
      this.exceeded('maxKeyBytes', bytes, 'bytes in one map key');
    }
  }

  /** @param remedy what else the client may have meant. */
  checkStringLength(bytes: number, remedy?: string): void {
    if (bytes > this.limits.maxStringBytes) {
      this.exceeded('maxStringBytes', bytes, 'bytes in one string', remedy);
    }
  }

  /** Steps to the entry `name` of the innermost map. Throws WireError if the map has it already. */
  atKey(name: string): void {
    const seen = this.seen[this.depth - 1]!;
    this.key[this.depth - 1] = name;
    if (seen.has(name)) {
      throw new WireError(
        'invalid-value',
        this.pointer(),
        `The key ${quote(name)} stands twice in the same map.`,
      );
    }
    seen.add(name);
  }

  /** Steps to an element of the innermost array. */
  atElement(index: number): void {
    this.index[this.depth - 1] = index;
  }

  nextElement(): void {
    this.index[this.depth - 1] += 1;
  }

  inMap(): boolean {
    return this.depth > 0 && this.seen[this.depth - 1] !== null;
  }

  /** JSON pointer of the value being scanned. */
  pointer(): string {
    let pointer = '';
    for (let level = 0; level < this.depth; level++) {
      if (this.seen[level] === null) {
        if (this.index[level] >= 0) pointer = appendPointer(pointer, this.index[level]);
      } else if (this.seen[level]!.size > 0) pointer = appendPointer(pointer, this.key[level]);
    }
    return pointer;
  }

  exceeded(limit: keyof WireLimits, actual: number, what: string, remedy?: string): never {
    const pointer = this.pointer();
    const allowed = this.limits[limit];
    throw new WireError(
      'limit-exceeded',
      pointer,
      `There are ${actual} ${what} at ${placeName(pointer)}; at most ${allowed} are allowed${remedy ? `; ${remedy}` : ''}.`,
      { limit: allowed, actual },
    );
  }
}
