/** What the loops of operations are written with. */
export type Arrays = Readonly<Record<string, Float64Array>>;
export type Numbers = Readonly<Record<string, number>>;
export type Loop = (numbers: Numbers, arrays: Arrays) => unknown;

/** For i and j in their order. */
export function each(rows: number, columns: number, visit: (i: number, j: number) => void): void {
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) visit(i, j);
}
export const sum = (n: number, term: (k: number) => number): number => {
  let total = 0;
  for (let k = 0; k < n; k++) total += term(k);
  return total;
};
export const panelAt = (k: number, i: number, j: number) =>
  (Math.floor(j / 16) * k + i) * 16 + (j % 16);
