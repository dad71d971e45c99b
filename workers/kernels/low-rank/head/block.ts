/** Rows of a block. */
export const BLOCK = 128;
