/** Makes what is sent from a result: tensors in their dtypes, and error figures that hold for these. */
import type { Job } from '../../workers/job.js';
import type { ErrorEstimate } from '../../workers/kernels/estimate/estimate.js';
import type { Narrowing, Sent as SentTensor } from '../../workers/tasks/encode.js';
import { Problem } from '../errors.js';
import { type Encoded, titleOf } from './encode-phase.js';

export interface TensorError {
  /** null: computed and sent in float64, with nothing more precise to compare with, or zero but for rounding, or nothing measures it. */
  readonly estimate: ErrorEstimate | null;
  /** Worst-case bound of a low-rank gradient; null: void, or not of the low-rank kernel. */
  readonly certificate: { readonly frobenius: number; readonly relative: number } | null;
  /** Why there is none; absent: there is. */
  readonly certificate_reason?: string;
}

export type TensorErrors = Readonly<Record<string, TensorError>>;

/** The figures of a tensor without a certificate. */
export function withoutCertificate(
  estimate: ErrorEstimate | null,
  reason = 'An exact answer has none.',
): TensorError {
  return { estimate, certificate: null, certificate_reason: reason };
}

export interface Sent<Tensors> {
  readonly tensors: Tensors;
  /** What rounding to the dtypes of the answer adds is in them. */
  readonly error: TensorErrors;
  /** Largest upper limit of an error. */
  readonly worst: number;
  /** Largest error by rounding to the dtype of the answer alone, and whose it is; null: none. */
  readonly rounded: (Narrowing & { readonly name: string }) | null;
}

/** Relative errors by rounding, of tensors whose error is not about themselves, by their names in `error`. */
export type RoundingOf = (
  sent: ReadonlyMap<string, SentTensor>,
) => Job<Readonly<Record<string, number>>>;

/**
 * @param roundingOf absent: every error is about its tensor.
 * @throws {Problem} when a number is finite and its dtype cannot hold it.
 */
export function* send<Tensors>(
  encoding: Job<Encoded<Tensors>>,
  computed: TensorErrors,
  roundingOf?: RoundingOf,
): Job<Sent<Tensors>> {
  const { tensors, byName } = yield* encoding;
  const elsewhere = roundingOf ? yield* roundingOf(byName) : {};
  const narrowings = new Map(
    Array.from(byName, ([name, { narrowing }]): [string, Narrowing] => {
      const relative = Math.max(narrowing.relative, elsewhere[name] ?? 0);
      return [name, { ...narrowing, relative }];
    }),
  );
  const error = Object.fromEntries(
    Object.entries(computed).map(([name, figures]) => {
      const { estimate, certificate } = figures;
      const off = narrowings.get(name)?.relative ?? 0;
      if (estimate === null) return [name, figures];
      if (estimate === IN_FLOAT64 && off === 0) return [name, { ...figures, estimate: null }];
      const { relative, upper } = estimate;
      const own = estimate === IN_FLOAT64 ? OF_FLOAT64 * off : upper;
      return [
        name,
        {
          ...figures,
          estimate: {
            ...estimate,
            relative: Math.hypot(relative, off),
            upper: ofTheTruth(own + off),
          },
          certificate: certificate && certificateOf(certificate, off),
        },
      ];
    }),
  );
  const uppers = Object.values(error).map(({ estimate }) => estimate?.upper ?? 0);
  const all = Array.from(narrowings, ([name, narrowing]) => ({ name, ...narrowing }));
  const checked = all.filter(({ name }) => name in error);
  return {
    tensors,
    error,
    worst: Math.max(0, ...uppers),
    rounded: checked.reduce<Sent<Tensors>['rounded']>(
      (worst, one) => (one.relative > (worst?.relative ?? 0) ? one : worst),
      null,
    ),
  };
}

/** Where the error may be as large as the gradient itself its norm says nothing of that of the truth. */
const LEAST_NORM = 1e-3;

/**
 * From a limit relative to the norm of the answer, |E| <= u |A|, to one relative to that of the true gradient T: |T| is at
 * least (1 - u) |A|.
 */
function ofTheTruth(upper: number): number {
  return upper / Math.max(LEAST_NORM, 1 - upper);
}

/** Largest error of float64 itself, as a share of the rounding of its result to float32: of its 29 additional bits 24 may cancel. */
const OF_FLOAT64 = 2 ** -5;
/** The estimate of a tensor that was computed in float64: only its rounding is unknown. */
export const IN_FLOAT64: ErrorEstimate = {
  ...{ relative: 0, upper: 0, standard_error: 0, confidence: 0.99, rows_sampled: 0 },
};

function certificateOf(
  { frobenius, relative }: NonNullable<TensorError['certificate']>,
  off: number,
) {
  const size = relative > 0 ? frobenius / relative : 0;
  return { frobenius: frobenius + off * size, relative: relative + off };
}

/** @throws {Problem} when rounding to the dtypes of the answer alone misses the tolerance. */
export function requirePrecision(rounded: Sent<unknown>['rounded'], tolerance: number): void {
  if (!rounded || rounded.relative <= tolerance) return;
  const { name, dtype, relative } = rounded;
  const remedy =
    dtype === 'float32' ? 'Send its tensor in float64' : 'Ask for outputs_dtype float32';
  throw new Problem(
    'tolerance-missed',
    `${titleOf(name)} is off by ${relative.toPrecision(2)} when it is rounded to ${dtype}, above the tolerance of ${tolerance}. ${remedy}, or allow a larger tolerance.`,
    { pointer: '/tolerance', limit: tolerance, actual: relative },
  );
}

/** @throws {Problem} when an answer as it is sent misses the tolerance. */
export function requireTolerance({ worst, rounded }: Sent<unknown>, tolerance: number): void {
  if (worst <= tolerance) return;
  requirePrecision(rounded, tolerance);
  throw new Problem(
    'tolerance-missed',
    `The error is up to ${worst.toPrecision(2)} (99 % confidence), above the tolerance of ${tolerance}.`,
    { pointer: '/tolerance', limit: tolerance, actual: worst },
  );
}
