/** Sizes of the arrays of a trial of an operation. */
import type { Draw, Sizes } from './operation.js';

/** Names of sizes, each drawn from [1, most] in steps of `step`. */
export const sizes =
  (limits: Readonly<Record<string, readonly [most: number, step?: number]>>) =>
  (draw: Draw): Sizes =>
    Object.fromEntries(
      Object.entries(limits).map(([name, [most, step = 1]]) => [
        name,
        step * draw.integer(1, Math.ceil(most / step)),
      ]),
    );

/** The same and then leading dimensions: at least as many elements as a row has, by name of both. */
export const strided =
  (
    limits: Readonly<Record<string, readonly [most: number, step?: number]>>,
    strides: (of: Sizes) => Sizes,
  ) =>
  (draw: Draw): Sizes => {
    const drawn = sizes(limits)(draw);
    const rows = Object.entries(strides(drawn));
    return {
      ...drawn,
      ...Object.fromEntries(rows.map(([name, least]) => [name, least + draw.integer(0, 5)])),
    };
  };

/** Elements of a matrix whose rows are `pitch` apart. */
export const pitched = (rows: number, columns: number, pitch: number) =>
  (rows - 1) * pitch + columns;

export const n4 = sizes({ n: [90, 4] });
export const matrix = sizes({ rows: [20], n: [70] });
export const ofN = ({ n }: Sizes) => n;
export const ofRows = ({ rows }: Sizes) => rows;
export const rowsByN = ({ rows, n }: Sizes) => rows * n;
export const rowsByColumns = ({ rows, columns }: Sizes) => rows * columns;
export const featuresByRows = ({ features, rows }: Sizes) => features * rows;

/** Rows of a table, of which some are listed. */
export const TABLE_ROWS = 5;
