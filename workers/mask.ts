/**
 * Which keys a row of queries sees, and which rows see a key: both are ranges [first, last), for causal
 * masks, sliding windows, padding on either side, packed sequences, and all of them together.
 *
 * Positions are counted from the first key of a batch item; its first row has position 0 too (top-left, as PyTorch's
 * is_causal), unless the rows are a part of more.
 */

export interface Mask {
  /** Row i sees keys i - left to i + right at most. Infinity: no limit. Causal: right = 0. */
  readonly left: number;
  readonly right: number;
  /** Keys [first, last) of each batch item that are no padding (`keyRanges`). Absent: all keys of all items. */
  readonly keys?: Int32Array;
  /** Rows see keys of their own sequence. Absent: every item is one sequence. */
  readonly sequences?: Sequences;
  /** Position of the first row, counted as those of the keys. Absent: 0. */
  readonly offset?: number;
}

/** Packed sequences (`packedSequences`), in memory that all tasks share. */
export interface Sequences {
  /** Where the sequences of a batch item end, rising to L; one list after the other. */
  readonly ends: Int32Array;
  /** Where the lists begin, and the last one ends: one list, or one for each batch item. */
  readonly lists: Int32Array;
}

/** [first, last); first = last: empty. */
export interface Range {
  readonly first: number;
  readonly last: number;
}

export interface Masked {
  readonly mask: Mask;
  readonly dims: { readonly queryLength: number; readonly keyLength: number };
}

export const NO_MASK: Mask = { left: Number.POSITIVE_INFINITY, right: Number.POSITIVE_INFINITY };
export const CAUSAL: Mask = { left: Number.POSITIVE_INFINITY, right: 0 };

const shared = (numbers: readonly number[]): Int32Array => {
  const to = new Int32Array(new SharedArrayBuffer(4 * numbers.length));
  to.set(numbers);
  return to;
};

export const keyRanges = (ofItems: readonly Range[]): Int32Array =>
  shared(ofItems.flatMap(({ first, last }) => [first, last]));

/** @param ends of one list, or of one for each batch item. */
export function packedSequences(ends: readonly ArrayLike<number>[]): Sequences {
  let count = 0;
  const lists = [0, ...ends.map(({ length }) => (count += length))];
  return { ends: shared(ends.flatMap((list) => Array.from(list))), lists: shared(lists) };
}

/** Keys of a batch item that are no padding. */
export function keysOf({ mask: { keys }, dims }: Masked, batchItem: number): Range {
  if (!keys) return { first: 0, last: dims.keyLength };
  return { first: keys[2 * batchItem]!, last: keys[2 * batchItem + 1]! };
}

/** Whether all rows of a batch item see all its keys that are no padding. */
export function seesAll({ mask }: Masked): boolean {
  return mask.left === Infinity && mask.right === Infinity && mask.sequences === undefined;
}

/** Keys that a row sees. Both ends rise with the row. */
export function keysOfRow(layer: Masked, batchItem: number, row: number): Range {
  const { left, right } = layer.mask;
  const keys = keysOf(layer, batchItem);
  const position = row + offsetOf(layer);
  const sequence = sequenceOf(layer, batchItem, position);
  const first = Math.min(Math.max(keys.first, sequence.first, position - left), keys.last);
  const last = Math.min(keys.last, sequence.last, position + right + 1);
  return { first, last: Math.max(first, last) };
}

/** Keys that some of the rows [first, last) see, and perhaps others between them. */
export function keysOfRows(layer: Masked, batchItem: number, rows: Range): Range {
  return {
    first: keysOfRow(layer, batchItem, rows.first).first,
    last: keysOfRow(layer, batchItem, rows.last - 1).last,
  };
}

/** Rows [from, to) that see a key, of as many keys from `first` on as there is room for. */
export function rowsOfKeys(
  layer: Masked,
  batchItem: number,
  first: number,
  from: Int32Array,
  to: Int32Array,
): void {
  const { left, right } = layer.mask;
  const keys = keysOf(layer, batchItem);
  const offset = offsetOf(layer);
  const end = Math.min(keys.last, first + from.length);
  from.fill(0);
  to.fill(0);
  for (let key = Math.max(keys.first, first); key < end; ) {
    const sequence = sequenceOf(layer, batchItem, key);
    const earliest = Math.max(offset, sequence.first) - offset;
    const latest = Math.min(sequence.last - offset, layer.dims.queryLength);
    for (const last = Math.min(end, sequence.last); key < last; key++) {
      const row = Math.max(earliest, key - right - offset);
      from[key - first] = row;
      to[key - first] = Math.max(row, Math.min(latest, key + left + 1 - offset));
    }
  }
}

/** Pairs (row, key) that are seen, in one head of a batch item. */
export function visiblePairs(layer: Masked, batchItem: number): number {
  const { mask, dims } = layer;
  const keys = keysOf(layer, batchItem);
  const ends = endsOf(layer, batchItem);
  const offset = offsetOf(layer);
  return ends.reduce((sum, end, k) => {
    const start = k === 0 ? 0 : ends[k - 1]!;
    const firstRow = Math.max(start, offset);
    const rows = {
      first: firstRow,
      last: Math.max(firstRow, Math.min(end, offset + dims.queryLength)),
    };
    const first = Math.max(keys.first, start);
    const seen = { first, last: Math.max(first, Math.min(keys.last, end)) };
    return sum + pairsBelow(rows, seen, mask.right) - pairsBelow(rows, seen, -mask.left - 1);
  }, 0);
}

/** Pairs of rows i and keys j with j <= i + shift. */
function pairsBelow(rows: Range, keys: Range, shift: number): number {
  const n = keys.last - keys.first;
  if (shift === Infinity) return n * (rows.last - rows.first);
  if (shift === -Infinity) return 0;
  // Sum over y < x of y, held between 0 and n.
  const ramp = (x: number) => {
    if (x <= 0) return 0;
    return x <= n ? (x * (x - 1)) / 2 : (n * (n - 1)) / 2 + (x - n) * n;
  };
  const from = shift + 1 - keys.first;
  return ramp(rows.last + from) - ramp(rows.first + from);
}

const offsetOf = ({ mask }: Masked): number => mask.offset ?? 0;

/** Ends of the sequences of a batch item. */
function endsOf(layer: Masked, batchItem: number): Int32Array {
  const { sequences } = layer.mask;
  const { queryLength, keyLength } = layer.dims;
  return sequences
    ? sequenceEnds(sequences, batchItem)
    : Int32Array.of(Math.max(queryLength + offsetOf(layer), keyLength));
}

export function sequenceEnds({ ends, lists }: Sequences, batchItem: number): Int32Array {
  const list = lists.length === 2 ? 0 : batchItem;
  return ends.subarray(lists[list]!, lists[list + 1]!);
}

const EVERYWHERE: Range = { first: 0, last: Number.POSITIVE_INFINITY };

/** The packed sequence that holds a position. */
function sequenceOf(layer: Masked, batchItem: number, position: number): Range {
  if (!layer.mask.sequences) return EVERYWHERE;
  const ends = endsOf(layer, batchItem);
  let [low, high] = [0, ends.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle]! > position) high = middle;
    else low = middle + 1;
  }
  return { first: low === 0 ? 0 : ends[low - 1]!, last: ends[low]! };
}
