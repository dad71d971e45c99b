/** From the request to the options of the planner and the solver. */
import type { Rates } from '../../../workers/kernels/low-rank/plan/cost.js';
import { Problem } from '../../errors.js';
import type { ParsedLayer } from '../../request/parse.js';
import { DEFAULT_TOLERANCE, type GradientRequest } from '../../request/request.js';
import type { SolveOptions } from '../../solver/solve.js';

/** @throws {Problem} when an option of the low-rank kernel is given together with method exact. */
export function solveOptions(
  request: GradientRequest,
  { kind, batched }: Pick<ParsedLayer, 'kind' | 'batched'>,
  rates: Rates,
): SolveOptions {
  const {
    method = 'auto',
    tolerance,
    features,
    correction,
    seed = 0,
    outputs: wanted = ['gradients'],
  } = request;
  for (const key of ['features', 'correction'] as const) {
    if (method === 'exact' && request[key]) {
      throw new Problem('conflicting-keys', `${key} is for low_rank; the method is exact.`, {
        pointer: `/${key}`,
      });
    }
  }
  return {
    // A number of features is a wish for low-rank.
    method: features === undefined ? method : 'low_rank',
    tolerance: tolerance ?? DEFAULT_TOLERANCE,
    toleranceStated: tolerance !== undefined,
    features,
    correction: correction ?? false,
    certificate: request.certificate ?? false,
    seed,
    attentionOutput: wanted.includes('attention_output'),
    inputGradients: wanted.includes(kind === 'attention' ? 'gradients' : 'input_gradients')
      ? kind
      : undefined,
    rates,
    encode: {
      gradients: wanted.includes('gradients'),
      batched,
      outputsDtype: request.outputs_dtype ?? 'same',
    },
  };
}
