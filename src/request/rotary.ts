/** Rotary position tables: both or neither, one row for every token. */

import type { Dimensions, Rotary } from '../../workers/problem.js';
import type { GivenTensor, Tensor } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import type { Intake } from './intake.js';
import type { ForwardRequest } from './request.js';
import { shapeMismatch } from './shapes.js';

const TABLES = ['cos', 'sin'] as const;

function parseTable(
  pointer: string,
  given: GivenTensor,
  { batch, queryLength, headDim }: Dimensions,
  intake: Intake,
): Tensor {
  const shape = given.shape.length === 2 ? [1, ...given.shape] : given.shape;
  const [items, length, width = 0] = shape;
  const fits =
    shape.length === 3 && (items === 1 || items === batch) && length === queryLength && width > 0;
  if (!fits || width > headDim || width % 2 !== 0) {
    throw shapeMismatch(
      pointer,
      given,
      `it must be (L, r) with L = ${queryLength} and an even r of at most d = ${headDim}, or that with a leading 1 or B = ${batch}.`,
    );
  }
  return intake.take(pointer, given, shape);
}

/** @throws {Problem} with a pointer to the table at fault. */
export const parseRotary = (
  request: ForwardRequest,
  dims: Dimensions,
  intake: Intake,
): Rotary | undefined => parseTables(request, '', dims, intake);

/** The same of tables anywhere in a request. @param pointer to what holds them. */
export function parseTables(
  holder: Partial<Record<(typeof TABLES)[number], GivenTensor>>,
  pointer: string,
  dims: Dimensions,
  intake: Intake,
): Rotary | undefined {
  const missing = TABLES.filter((name) => holder[name] === undefined);
  if (missing.length === 2) return undefined;
  if (missing.length === 1) {
    throw new Problem('missing-key', `${missing[0]} is missing; cos and sin go together.`, {
      pointer,
    });
  }
  const { queryLength, keyLength } = dims;
  if (queryLength !== keyLength) {
    throw new Problem(
      'shape-mismatch',
      `cos and sin rotate queries and keys by the same positions, but Lq = ${queryLength} and Lk = ${keyLength}.`,
      { pointer: `${pointer}/cos` },
    );
  }
  const [cos, sin] = TABLES.map((name) =>
    parseTable(`${pointer}/${name}`, holder[name] as GivenTensor, dims, intake),
  );
  if (cos.shape[2] !== sin.shape[2]) {
    throw new Problem(
      'shape-mismatch',
      `cos turns ${cos.shape[2]} channels of each head, but sin ${sin.shape[2]}.`,
      { pointer: `${pointer}/sin` },
    );
  }
  return { cos, sin };
}
