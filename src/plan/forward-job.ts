/** One forward request as a job: decode, compute the attention output, encode. */
import { exactForwardJob } from '../../workers/kernels/exact/forward.js';
import type { Job } from '../../workers/kernels/job.js';
import { referenceForwardJob } from '../../workers/kernels/reference/forward.js';
import type { ForwardResult } from '../../workers/kernels/result.js';
import { Problem } from '../errors.js';
import type { PendingTensor } from '../lora/intake.js';
import type { AttentionLayer } from '../lora/problem.js';
import { efficiencyThreshold } from '../lora/threshold.js';
import type { EncodedTensor } from '../tensor/encoded.js';
import { chooseForward } from './choose.js';
import { forwardFlops } from './cost.js';
import { decodePhase } from './decode-phase.js';
import { encodeForwardPhase } from './encode-phase.js';
import { planFigures } from './figures.js';
import type { GradientAnswer } from './gradient-job.js';
import type { PhaseClock } from './phases.js';
import { allFinite, type Solution, type SolveOptions, type TensorError } from './solve.js';

export interface ForwardOptions extends SolveOptions {
  readonly batched: boolean;
}

export interface ForwardAnswer
  extends Pick<GradientAnswer, 'method' | 'reason' | 'fallback' | 'threshold' | 'plan'> {
  readonly attention_output: EncodedTensor;
  readonly error: { readonly attention_output: TensorError };
}

type ForwardSolution = Pick<Solution, 'reason' | 'fallback'> & {
  readonly result: ForwardResult;
  readonly estimate: TensorError['estimate'];
};

/** @throws {Problem} when the result is beyond float64. */
function* inFloat64(layer: AttentionLayer) {
  const result = yield* referenceForwardJob(layer);
  if (allFinite(result.attentionOutput)) return { result, estimate: null };
  throw new Problem(
    'not-finite',
    'The tensors are finite, but the attention output is too large even for float64.',
  );
}

function* solveForward(layer: AttentionLayer, options: ForwardOptions): Job<ForwardSolution> {
  const { kernel, reason } = chooseForward(options);
  if (kernel === 'reference') return { ...(yield* inFloat64(layer)), reason, fallback: false };
  const { error, ...result } = yield* exactForwardJob(layer, { seed: options.seed });
  if (allFinite(result.attentionOutput)) {
    return { result, estimate: error, reason, fallback: false };
  }
  return {
    ...(yield* inFloat64(layer)),
    reason: 'The numbers are too large for float32: computed in float64.',
    fallback: true,
  };
}

/**
 * @param clock told of each phase that is over.
 * @throws {Problem} when a tensor is not finite.
 */
export function* forwardJob(
  layer: AttentionLayer,
  pending: readonly PendingTensor[],
  options: ForwardOptions,
  clock: PhaseClock,
): Job<ForwardAnswer> {
  yield* decodePhase(pending);
  clock('decode');
  const flops = forwardFlops(layer);
  clock('plan');
  const { result, estimate, reason, fallback } = yield* solveForward(layer, options);
  clock('compute');
  const attention_output = yield* encodeForwardPhase(layer, result, options.batched);
  clock('encode');
  return {
    attention_output,
    method: 'exact',
    reason,
    fallback,
    error: { attention_output: { estimate, certificate: null } },
    threshold: efficiencyThreshold(result.norms, layer.dims),
    plan: planFigures(null, 'exact', flops, options.rates.exact),
  };
}
