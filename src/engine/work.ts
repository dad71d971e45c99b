/** What a request can ask the solver for, and the job that does it. */
import type { Job } from '../../workers/job.js';
import type { AttentionLayer, AttentionProblem } from '../../workers/problem.js';
import { encodeJob } from '../../workers/tasks/encode.js';
import type { EncodedTensor } from '../../workers/tensor/encoded.js';
import type { Tensor } from '../../workers/tensor/tensor.js';
import type { PendingTensor } from '../request/intake.js';
import type { ChooseOptions } from '../solver/choose-low-rank.js';
import type { Workplace } from '../solver/phases.js';
import type { SolveOptions } from '../solver/solution.js';
import { type ForwardAnswer, forwardJob } from './forward-job.js';
import { type GradientAnswer, gradientJob } from './gradient-job.js';
import { type PlanAnswer, planJob } from './plan-job.js';
import { withRates } from './rates.js';
import { storeJob } from './store-job.js';

/** Each survives structured cloning: plain objects whose typed arrays sit over SharedArrayBuffers. */
interface Works {
  gradient: {
    readonly problem: AttentionProblem;
    readonly pending: readonly PendingTensor[];
    readonly options: SolveOptions;
  };
  forward: {
    readonly layer: AttentionLayer;
    readonly pending: readonly PendingTensor[];
    readonly options: SolveOptions;
  };
  plan: {
    readonly problem: AttentionLayer & Partial<AttentionProblem>;
    readonly pending: readonly PendingTensor[];
    readonly options: ChooseOptions;
  };
  /** A tensor on its way into the store. */
  keep: { readonly digest: string; readonly encoded: EncodedTensor };
  /** A tensor of the store on its way out. */
  give: { readonly tensor: Tensor };
}

export interface Answers {
  gradient: GradientAnswer;
  forward: ForwardAnswer;
  plan: PlanAnswer;
  keep: Tensor;
  give: EncodedTensor;
}

export type WorkKind = keyof Works;
export type Work<Kind extends WorkKind = WorkKind> = {
  [K in Kind]: { readonly kind: K } & Works[K];
}[Kind];

/** @throws {Problem} what the client has to be told. */
export function* jobOf(work: Work, place: Workplace): Job<Answers[WorkKind]> {
  switch (work.kind) {
    case 'gradient': {
      const options = yield* withRates(work.problem, work.options);
      return yield* gradientJob(work.problem, work.pending, options, place);
    }
    case 'forward': {
      const options = yield* withRates(work.layer, work.options);
      return yield* forwardJob(work.layer, work.pending, options, place);
    }
    case 'plan': {
      const options = yield* withRates(work.problem, work.options, true);
      return yield* planJob(work.problem, work.pending, options, place);
    }
    case 'keep':
      return yield* storeJob(work.digest, work.encoded, place.clock);
    case 'give':
      return yield* giveJob(work.tensor);
  }
}

function* giveJob(tensor: Tensor): Job<EncodedTensor> {
  const [{ tensor: encoded }] = yield* encodeJob([tensor]);
  return encoded;
}
