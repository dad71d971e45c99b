/** From the request to the options of the planner and the solver. */
import type { Rates } from '../../../../workers/kernels/low-rank/plan/cost.js';
import { Problem } from '../../../errors.js';
import type { ParsedLayer } from '../../../request/parse.js';
import { DEFAULT_TOLERANCE, type GradientRequest, type METHODS } from '../../../request/request.js';
import type { SolveOptions } from '../../../solver/solution.js';

type Method = (typeof METHODS)[number];

/** Options that belong to one method. */
const OPTIONS_OF = { features: 'low_rank', correction: 'low_rank', keys: 'sampled' } as const;

/** @throws {Problem} when an option of one kernel is given together with the method of another. */
export function solveOptions(
  request: GradientRequest,
  { kind, batched }: Pick<ParsedLayer, 'kind' | 'batched'>,
  rates: Rates,
): SolveOptions {
  const {
    method = 'auto',
    tolerance,
    features,
    keys,
    correction,
    seed = 0,
    outputs: wanted = ['gradients'],
  } = request;
  for (const [key, owner] of Object.entries(OPTIONS_OF) as [keyof typeof OPTIONS_OF, Method][]) {
    if (method === 'auto' || method === owner || !request[key]) continue;
    throw new Problem('conflicting-keys', `${key} is for ${owner}; the method is ${method}.`, {
      pointer: `/${key}`,
    });
  }
  if (features !== undefined && keys !== undefined) {
    throw new Problem('conflicting-keys', 'features is for low_rank, keys for sampled.', {
      pointer: '/keys',
    });
  }
  return {
    // A number of features is a wish for low-rank, one of keys for sampled.
    method: features !== undefined ? 'low_rank' : keys !== undefined ? 'sampled' : method,
    tolerance: tolerance ?? DEFAULT_TOLERANCE,
    toleranceStated: tolerance !== undefined,
    features,
    keys,
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
