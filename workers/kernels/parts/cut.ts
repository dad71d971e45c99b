/**
 * How a large problem is cut into smaller ones: by batch items, then by groups of heads, then by query rows.
 * The cut follows from the problem alone, never from the machines at hand, so that the answer does not either.
 */
import { keysOfRow, type Range, visiblePairs } from '../../mask.js';
import { type AttentionLayer, hasAttentionStates } from '../../problem.js';

/**
 * Ranges of batch items, of key/value heads with their query heads, and of query rows. Rows are cut only where each part has one
 * item and one key/value head.
 */
export interface Cut {
  readonly items: Range;
  readonly sharedHeads: Range;
  readonly rows: Range;
}

/** What is computed. */
export interface CutNeeds {
  /** false: the output alone. */
  readonly gradients: boolean;
  readonly inputGradients: boolean;
  /** A row needs what others make of the keys: rows stay together. */
  readonly rowsTogether?: boolean;
}

/** Work of a part, in flops: a second or two of a thread. */
const PART_WORK = 5e10;
/** Parts at most: their results are added up one after the other, and each samples rows of its own. */
const MOST_PARTS = 32;
/** Rows of a part for each of its inputs: so the keys that every part projects cost a tenth of its work. */
const ROWS_OF_INPUT = 4;
const LEAST_ROWS = 2048;
/** Rows whose work is taken together. */
const ROW_STEP = 64;

/** @param work as `LargeTask.flops` has it. */
export function cutProblem(layer: AttentionLayer, needs: CutNeeds, work: number): Cut[] {
  const { batch, keyValueHeads, queryLength } = layer.dims;
  const wanted = Math.min(MOST_PARTS, Math.floor(work / PART_WORK));
  const items = evenly(batch, wanted);
  const heads = headsAreApart(layer, needs)
    ? evenly(keyValueHeads, Math.ceil(wanted / batch))
    : evenly(keyValueHeads, 1);
  const headGroups = items.length * heads.length;
  const rows =
    rowsAreApart(layer, needs) && headGroups === batch * keyValueHeads
      ? rowRanges(layer, Math.ceil(wanted / headGroups))
      : () => [{ first: 0, last: queryLength }];
  return items.flatMap((item) =>
    heads.flatMap((sharedHeads) =>
      rows(item.first).map((range): Cut => ({ items: item, sharedHeads, rows: range })),
    ),
  );
}

/** Gradients of inputs that are projected are sums over heads: as large for one head as for all. */
function headsAreApart(layer: AttentionLayer, { inputGradients }: CutNeeds): boolean {
  return !inputGradients || hasAttentionStates(layer);
}

/**
 * Whether parts know their rows' gradients of the adapters by themselves. Not under rotary positions, whose tables
 * hold for queries and keys alike; attention states, whose keys' gradients would be as large as the inputs for
 * every part, are cut by heads.
 */
function rowsAreApart(layer: AttentionLayer, needs: CutNeeds): boolean {
  const { gradients, inputGradients, rowsTogether = false } = needs;
  const ofStates = gradients && hasAttentionStates(layer);
  return !layer.rotary && !ofStates && !inputGradients && !rowsTogether;
}

/** Ranges of at most `parts`, as even as whole numbers are. */
function evenly(total: number, parts: number): Range[] {
  const count = Math.max(1, Math.min(total, parts));
  const place = (k: number) => Math.floor((k * total) / count);
  return Array.from({ length: count }, (_, k) => ({ first: place(k), last: place(k + 1) }));
}

/** Ranges of rows of a batch item with about as many keys to see in each. */
function rowRanges(layer: AttentionLayer, wanted: number): (batchItem: number) => Range[] {
  const { queryLength } = layer.dims;
  const { inFeatures } = layer.projections.k_proj;
  const most = Math.floor(queryLength / Math.max(LEAST_ROWS, ROWS_OF_INPUT * inFeatures));
  const count = Math.max(1, Math.min(wanted, most));
  return (batchItem) => {
    if (count === 1) return [{ first: 0, last: queryLength }];
    const each = visiblePairs(layer, batchItem) / count;
    const ranges: Range[] = [];
    let [first, pairs] = [0, 0];
    for (let row = 0; row < queryLength; row += ROW_STEP) {
      const last = Math.min(row + ROW_STEP, queryLength);
      const seen = keysOfRow(layer, batchItem, (row + last) >> 1);
      pairs += (last - row) * (seen.last - seen.first);
      if (pairs < each * (ranges.length + 1) && last < queryLength) continue;
      ranges.push({ first, last });
      first = last;
    }
    return ranges;
  };
}
