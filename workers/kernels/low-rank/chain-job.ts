/** The chain as a job: three passes over the rows of every head, and what they add up to. */

import { type Job, stage, type Task, within } from '../../job.js';
import type { AttentionLayer } from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import { ROUNDOFF } from './arithmetic/arithmetic.js';
import type { HeadRun } from './chain/run.js';
import { certificate } from './error/certificate/certificate.js';
import type { KeySide } from './error/certificate/certificate-keys.js';
import { joinQuerySides, type QuerySide } from './error/certificate/query-side.js';
import { layout } from './head/layout.js';
import { DRAWN_GROUPS } from './head/plan.js';
import {
  emptyGradients,
  TENSORS,
  type TensorName,
  tensorOffset,
  tensorScale,
} from './head/tensors.js';

interface OfRun<Step extends string, Result = void> extends Task<Result> {
  readonly kernel: 'low_rank';
  readonly step: Step;
  readonly run: HeadRun;
}

interface KeysTask extends OfRun<'keys', KeySide | null> {
  readonly segment: number;
  readonly certify: boolean;
}

interface JoinTask extends OfRun<'join', KeySide | null> {
  readonly side: 'key' | 'query';
  /** Sides of the segments of the keys; empty without a certificate. */
  readonly certificate: readonly KeySide[];
}

interface QueriesTask extends OfRun<'queries', QuerySide | null> {
  readonly segment: number;
  /** Key side of the certificate; null when none is wanted. */
  readonly certificate: KeySide | null;
}

interface LeftTask extends OfRun<'left'> {
  readonly segment: number;
}

type GradientsTask = OfRun<'gradients'>;

/** Bounds of the six tensors; null: none. */
interface CertificateTask extends OfRun<'certificate', (number | null)[]> {
  readonly keys: KeySide;
  readonly queries: readonly QuerySide[];
}

/** Parts of one tensor that heads add to it, in their order. */
interface CollectTask extends Task<void> {
  readonly kernel: 'low_rank';
  readonly step: 'collect';
  readonly to: Float64Array;
  readonly parts: readonly { readonly at: number; readonly from: Float64Array }[];
}

export type ChainTask =
  | KeysTask
  | JoinTask
  | QueriesTask
  | LeftTask
  | GradientsTask
  | CertificateTask
  | CollectTask;

/** Heads whose sums are in memory at the same time. */
export const GROUP = 8;
/** Numbers in the sums of these, beyond which no other head is opened. */
export const GROUP_SUMS = 2 ** 26;
/** Numbers that these may keep of their rows: gradients of the inputs, and products under a causal mask. */
const GROUP_NUMBERS = 2 ** 28;

export interface ChainResult {
  /** Each (r, in) or (out, r) as in PEFT; empty for a frozen projection. */
  readonly gradients: Record<TensorName, Float64Array>;
  /** Bounds of the six tensors of every head; null: none. */
  readonly certificates: readonly (readonly (number | null)[])[];
}

interface ChainOptions {
  readonly certified: boolean;
  /** What the groups of drawn features add to the six tensors, all heads together; absent: nothing is drawn. */
  readonly drawnFeatures?: readonly Float64Array[];
  /** false: the output alone. */
  readonly backward?: boolean;
}

/** Share of the passes in the work of a group of heads; `after` has the rest. */
const PASSES = 0.8;

/** `after` sees every group of heads while its sums are in memory, and may lease more until then. */
export function* chainJob<T extends Task>(
  problem: AttentionLayer,
  heads: number,
  open: (index: number, memory: Lease) => HeadRun,
  options: ChainOptions,
  after: (runs: readonly HeadRun[], memory: Lease) => Job<void, T>,
): Job<ChainResult, ChainTask | T> {
  const gradients = emptyGradients(problem);
  const { queryLength, keyLength, headDim, valueDim } = problem.dims;
  const numbers = 3 * Math.max(queryLength, keyLength) * (headDim + valueDim);
  const group = Math.max(1, Math.min(GROUP, Math.floor(GROUP_NUMBERS / numbers)));
  const certificates: (number | null)[][] = [];
  for (let first = 0, count = 0; first < heads; first += count) {
    const memory = new Lease();
    try {
      const most = Math.min(group, heads - first);
      const runs = [open(first, memory)];
      for (let sums = 0; runs.length < most; ) {
        // Heads have about as many.
        const last = sumsOf(runs[runs.length - 1]);
        sums += last;
        if (sums + last > GROUP_SUMS) break;
        runs.push(open(first + runs.length, memory));
      }
      count = runs.length;
      const place = (share: number) => (first + share * count) / heads;
      const chain = passes(runs, options, gradients);
      certificates.push(...(yield* within([place(0), place(PASSES)], chain)));
      yield* within([place(PASSES), place(1)], after(runs, memory));
    } finally {
      memory.end();
    }
  }
  return { gradients, certificates };
}

/** Numbers in the sums of a head. */
function sumsOf({ keySums, querySums, keyTotal, queryTotal }: HeadRun): number {
  const slots = Math.max(...[keySums, querySums].map((sums) => sums.length * sums[0].length));
  return slots + keyTotal.length + queryTotal.length;
}

/** The chain of heads whose sums are in memory together. @returns the bounds of each head. */
function* passes(
  runs: readonly HeadRun[],
  { certified, backward = true, drawnFeatures }: ChainOptions,
  gradients: Record<TensorName, Float64Array>,
): Job<(number | null)[][], ChainTask> {
  const perSegment = <T>(make: (run: HeadRun, segment: number, h: number) => T): T[] =>
    runs.flatMap((run, h) => run.segments.map((_, segment) => make(run, segment, h)));
  const ofHead = <T>(results: readonly T[]): T[][] => {
    const all = results.slice();
    return runs.map((run) => all.splice(0, run.segments.length));
  };
  const present = <T>(sides: readonly (T | null)[]) => sides.filter((side) => side !== null);
  const keySides = ofHead(
    yield* stage(
      'keys',
      perSegment((run, segment): KeysTask => {
        return { kernel: 'low_rank', step: 'keys', run, segment, certify: certified };
      }),
      [0, 0.25],
    ),
  );
  const join = (side: 'key' | 'query', span: readonly [number, number]) =>
    stage(
      'join',
      runs.map((run, h): JoinTask => {
        const sides = side === 'key' ? present(keySides[h]) : [];
        return { kernel: 'low_rank', step: 'join', run, side, certificate: sides };
      }),
      span,
    );
  const keys = yield* join('key', [0.25, 0.26]);
  const querySides = ofHead(
    yield* stage(
      'queries',
      perSegment((run, segment, h): QueriesTask => {
        return { kernel: 'low_rank', step: 'queries', run, segment, certificate: keys[h] };
      }),
      [0.26, 0.6],
    ),
  );
  const certificates = certified
    ? yield* stage(
        'certificate',
        runs.map((run, h): CertificateTask => {
          const sides = { keys: keys[h]!, queries: present(querySides[h]) };
          return { kernel: 'low_rank', step: 'certificate', run, ...sides };
        }),
        [0.6, 0.62],
      )
    : runs.map(() => TENSORS.map(() => null));
  if (backward) {
    yield* join('query', [0.62, 0.63]);
    yield* stage(
      'left',
      perSegment((run, segment): LeftTask => {
        return { kernel: 'low_rank', step: 'left', run, segment };
      }),
      [0.63, 0.95],
    );
  }
  yield* stage(
    'gradients',
    runs.map((run): GradientsTask => ({ kernel: 'low_rank', step: 'gradients', run })),
    [0.95, 0.98],
  );
  yield* stage('collect', collectTasks(runs, gradients, drawnFeatures), [0.98, 1]);
  return certificates;
}

function collectTasks(
  runs: readonly HeadRun[],
  gradients: Record<TensorName, Float64Array>,
  drawnFeatures: readonly Float64Array[] = [],
): CollectTask[] {
  const parts = (
    of: (run: HeadRun, from: number, size: number) => CollectTask['parts'],
    t: number,
  ) =>
    runs.flatMap((run) => {
      const { gradientAt, gradientSizes } = layout(run.head);
      return of(run, gradientAt[t], gradientSizes[t]);
    });
  const task = (to: Float64Array, of: Parameters<typeof parts>[0], t: number): CollectTask => {
    return { kernel: 'low_rank', step: 'collect', to, parts: parts(of, t) };
  };
  const ofGradients = TENSORS.map((name, t) =>
    task(
      gradients[name],
      ({ head, queryGradients: [joined] }, from, size) => [
        { at: tensorOffset(head, t), from: joined.subarray(from, from + size) },
      ],
      t,
    ),
  );
  // Groups of different heads are independent, and so are their sums.
  const ofDrawn = drawnFeatures.map((sum, t) =>
    task(
      sum,
      ({ head, drawnGradients: [joined] }, from, size) =>
        Array.from({ length: joined ? DRAWN_GROUPS : 0 }, (_, k) => {
          const start = k * (joined.length / DRAWN_GROUPS) + from;
          const at = k * (sum.length / DRAWN_GROUPS) + tensorOffset(head, t);
          return { at, from: joined.subarray(start, start + size) };
        }),
      t,
    ),
  );
  return [...ofGradients, ...ofDrawn].filter(({ to }) => to.length > 0);
}

export function collect({ to, parts }: CollectTask): void {
  for (const { at, from } of parts) {
    for (let i = 0; i < from.length; i++) to[at + i] += from[i];
  }
}

export function bounds({ run, keys, queries }: CertificateTask): (number | null)[] {
  const target = run.head.kind === 'target';
  const found = certificate(keys, joinQuerySides(queries), target, ROUNDOFF);
  return found.map((b, t) => (b === null ? null : b * Math.abs(tensorScale(run.head, t))));
}
