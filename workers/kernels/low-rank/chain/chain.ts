/** The chain as a job: three passes over the rows of every head, and what they add up to. */

import type { Job } from '../../../job.js';
import type { AttentionLayer } from '../../../problem.js';
import { Lease } from '../../../tensor/shared-memory.js';
import { ROUNDOFF } from '../arithmetic/arithmetic.js';
import { certificate } from '../error/certificate/certificate.js';
import { joinKeySides, type KeySide } from '../error/certificate/certificate-keys.js';
import { joinQuerySides, type QuerySide } from '../error/certificate/certificate-queries.js';
import type { Head } from '../head/head.js';
import { TENSORS, type TensorName } from '../head/layout.js';
import type { HeadRun } from '../run.js';
import type { LowRankTask } from '../task.js';
import { type HeadGradients, tensorScale } from './gradient.js';

/** Heads whose sums are in memory at the same time. */
const WAVE = 8;
/** Numbers that these may keep of their rows: gradients of the inputs, and products under a causal mask. */
const WAVE_NUMBERS = 2 ** 28;

export interface ChainResult {
  /** Each (r, in) or (out, r) as in PEFT; empty for a frozen projection. */
  readonly gradients: Record<TensorName, Float64Array>;
  /** Bounds of the six tensors of every head; null: none. */
  readonly certificates: readonly (readonly (number | null)[])[];
}

export interface ChainOptions {
  readonly certified: boolean;
  /** false: the output alone. */
  readonly backward?: boolean;
}

/** `after` sees every wave of heads while its sums are in memory, and may lease more until then. */
export function* chainJob(
  problem: AttentionLayer,
  heads: number,
  open: (index: number, memory: Lease) => HeadRun,
  options: ChainOptions,
  after: (runs: readonly HeadRun[], memory: Lease) => Job<void, LowRankTask>,
): Job<ChainResult, LowRankTask> {
  const gradients = emptyGradients(problem);
  const { queryLength, keyLength, headDim, valueDim } = problem.dims;
  const numbers = 3 * Math.max(queryLength, keyLength) * (headDim + valueDim);
  const wave = Math.max(1, Math.min(WAVE, Math.floor(WAVE_NUMBERS / numbers)));
  const certificates: (number | null)[][] = [];
  for (let first = 0; first < heads; first += wave) {
    const memory = new Lease();
    try {
      const runs = Array.from({ length: Math.min(wave, heads - first) }, (_, i) =>
        open(first + i, memory),
      );
      for (const [i, { parts, bounds }] of (yield* passes(runs, options)).entries()) {
        addHead(gradients, runs[i].head, parts);
        certificates.push(bounds);
      }
      yield* after(runs, memory);
    } finally {
      memory.end();
    }
  }
  return { gradients, certificates };
}

export interface HeadResult {
  readonly parts: HeadGradients;
  /** Of the six tensors; null: none. */
  readonly bounds: (number | null)[];
}

/** The chain of heads whose sums are in memory together. */
export function* passes(
  runs: readonly HeadRun[],
  { certified, backward = true }: ChainOptions,
): Job<HeadResult[], LowRankTask> {
  const perSegment = <T>(make: (run: HeadRun, segment: number, h: number) => T): T[] =>
    runs.flatMap((run, h) => run.segments.map((_, segment) => make(run, segment, h)));
  const ofHead = <T>(results: readonly unknown[]): T[][] => {
    const all = results.slice() as T[];
    return runs.map((run) => all.splice(0, run.segments.length));
  };
  const join = (side: 'key' | 'query') => ({
    name: 'join',
    tasks: runs.map((run) => ({
      kernel: 'low_rank' as const,
      step: 'join' as const,
      run,
      side,
    })),
  });
  const keySides = ofHead<KeySide>(
    yield {
      name: 'keys',
      tasks: perSegment((run, segment) => ({
        kernel: 'low_rank' as const,
        step: 'keys' as const,
        run,
        segment,
        certify: certified,
      })),
    },
  ).map((sides) => (certified ? joinKeySides(sides) : null));
  yield join('key');
  const querySides = ofHead<QuerySide>(
    yield {
      name: 'queries',
      tasks: perSegment((run, segment, h) => ({
        kernel: 'low_rank' as const,
        step: 'queries' as const,
        run,
        segment,
        certificate: keySides[h],
      })),
    },
  );
  const certificates = runs.map((run, h) => {
    const keys = keySides[h];
    const bounds = keys
      ? certificate(keys, joinQuerySides(querySides[h]), run.head.kind === 'target', ROUNDOFF)
      : TENSORS.map(() => null);
    return bounds.map((b, t) => (b === null ? null : b * Math.abs(tensorScale(run.head, t))));
  });
  if (backward) yield join('query');
  if (backward)
    yield {
      name: 'left',
      tasks: perSegment((run, segment) => ({
        kernel: 'low_rank' as const,
        step: 'left' as const,
        run,
        segment,
      })),
    };
  const parts = yield {
    name: 'gradients',
    tasks: runs.map((run) => ({ kernel: 'low_rank' as const, step: 'gradients' as const, run })),
  };
  return certificates.map((bounds, h) => ({ parts: parts[h] as HeadGradients, bounds }));
}

export function emptyGradients(problem: AttentionLayer): Record<TensorName, Float64Array> {
  const { q_proj, k_proj, v_proj } = problem.projections;
  const sizes = [q_proj, k_proj, v_proj].flatMap((p) => {
    const rank = p.adapter?.rank ?? 0;
    return [rank * p.inFeatures, rank * p.outFeatures];
  });
  return Object.fromEntries(TENSORS.map((name, t) => [name, new Float64Array(sizes[t])])) as Record<
    TensorName,
    Float64Array
  >;
}

/** Where tensor t of a head stands in the whole tensor: lora_A is shared, lora_B has rows per head. */
export function tensorOffset(head: Head, t: number): number {
  const { d, dv, query, key, value } = head;
  return [
    0,
    head.head * d * query.rank,
    0,
    head.keyValueHead * d * key.rank,
    0,
    head.keyValueHead * dv * value.rank,
  ][t];
}

/** Adds what belongs to a head to the whole tensors. */
export function addHead(
  total: Record<TensorName, Float64Array>,
  head: Head,
  part: Record<TensorName, Float64Array>,
): void {
  TENSORS.forEach((name, t) => {
    const offset = tensorOffset(head, t);
    const [to, from] = [total[name], part[name]];
    for (let i = 0; i < from.length; i++) to[offset + i] += from[i];
  });
}
