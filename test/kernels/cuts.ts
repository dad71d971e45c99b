/** Cuts of small problems, which nobody would cut. */
import type { Cut } from '../../workers/kernels/parts/cut.js';
import { type AttentionProblem, hasAttentionStates } from '../../workers/problem.js';

const split = (total: number, parts: number) =>
  Array.from({ length: parts }, (_, k) => ({
    first: Math.floor((k * total) / parts),
    last: Math.floor(((k + 1) * total) / parts),
  }));

/** Every cut that may be made: items alone, heads of each item, rows of each head. */
export function everyCut({ dims, ...problem }: AttentionProblem, inputGradients: boolean): Cut[][] {
  const all = (n: number) => ({ first: 0, last: n });
  const states = hasAttentionStates({ dims, ...problem });
  const rows = all(dims.queryLength);
  const sharedHeads = all(dims.keyValueHeads);
  const items = split(dims.batch, Math.min(2, dims.batch));
  const one = split(dims.batch, dims.batch);
  const heads = split(dims.keyValueHeads, dims.keyValueHeads);
  const cuts = [items.map((range): Cut => ({ items: range, sharedHeads, rows }))];
  if (inputGradients && !states) return cuts;
  const headGroups = one.flatMap((item) =>
    heads.map((head) => ({ items: item, sharedHeads: head })),
  );
  cuts.push(headGroups.map((headGroup): Cut => ({ ...headGroup, rows })));
  if (states || problem.rotary) return cuts;
  const ranges = split(dims.queryLength, 3);
  cuts.push(
    headGroups.flatMap((headGroup) => ranges.map((range): Cut => ({ ...headGroup, rows: range }))),
  );
  return cuts;
}
