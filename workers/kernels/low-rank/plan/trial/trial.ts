/**
 * What a plan would cost in accuracy, on a few rows and columns of P: the error for nested numbers of
 * features. The upstream gradient is a random probe. Errors are compared entry by entry, as sums of
 * squares: that does not depend on how many keys stand for all.
 */

import type { Task } from '../../../../job.js';
import { shared } from '../../../../tensor/shared-memory.js';
import { Random } from '../../../random.js';
import type { Arithmetic } from '../../arithmetic/arithmetic.js';
import { canDrawFeatures, effectiveFeatures } from '../../error/drawn-features/draw.js';
import { type Head, wantsScores } from '../../head/head.js';
import { openWorkspace } from '../../head/workspace.js';
import { type Basis, sampleBasis } from '../basis.js';
import { draftPlan } from '../draft.js';
import { exactBlock, lowRankBlock } from './block.js';
import { compare, type TrialError } from './errors.js';
import { drawTrial, type LongestRows } from './sample.js';

/** Feature numbers that are tried; between them the plan interpolates. */
export const FEATURE_STEPS = [16, 32, 64, 128, 256, 512, 1024] as const;
/** These are tried in any case, so that the answer can say what the input would need. */
export const ALWAYS_TRIED = 64;
/** With so many times the error that is enough, still uneven, outliers are wanting and not features. */
const FAR = 8;

export interface TrialRow {
  /** Features really used: a spectrum can run out of directions. */
  readonly features: number;
  /** Features beyond them that matter as one of equal weight would: effectiveFeatures. */
  readonly drawnFeatures: number;
  /** Errors of dS K and of P V. */
  readonly score: TrialError;
  readonly value: TrialError;
}

/** A share of outliers, and a list of errors over FEATURE_STEPS: all that a choice is made by. */
export interface Judged {
  readonly share: number;
  readonly basis: Pick<Basis, 'features' | 'directions'>;
  readonly rows: readonly TrialRow[];
}

export interface Trial extends Judged {
  readonly basis: Basis;
  /** How much each feature of the basis weighs in an error when it is left out; empty where none can be drawn. */
  readonly weightsBeyond: Float64Array;
}

/** Errors so small that the least draws will do, and more features only cost more. */
export interface Enough {
  /** Where rows alone tell. */
  readonly rows: number;
  /** Where features are drawn. */
  readonly mixed: number;
}

interface TrialRequest {
  /** Shares of outliers to try, rising; no further than to one under which errors are even. */
  readonly shares: readonly number[];
  /** The share that the basis is made without. */
  readonly without: number;
  /** Features of the basis: the most that the plan may take, and those behind them. */
  readonly listed: number;
  /** Feature numbers to try, rising; no further than to one whose error is `enough`. */
  readonly steps: readonly number[];
  readonly enough: Enough;
  readonly longest: LongestRows;
  readonly seed: number;
}

export interface TrialTask extends Task<Trial[]> {
  readonly kernel: 'low_rank';
  readonly step: 'trial';
  readonly head: Head;
  readonly request: TrialRequest;
}

export function tryShares(arithmetic: Arithmetic, { head, request }: TrialTask): Trial[] {
  const { shares, without, listed, steps, enough, longest, seed } = request;
  const basis = sampleBasis(arithmetic, head, without, listed, seed);
  const plan = draftPlan(head, basis, steps[steps.length - 1], 0);
  const space = openWorkspace(arithmetic, head, plan, 1);
  const random = new Random(seed + 1);
  const sample = drawTrial(space, longest, random);
  const block = exactBlock(space, sample, random);
  const trials: Trial[] = [];
  for (const share of shares) {
    const mark = arithmetic.mark();
    const low = lowRankBlock(space, sample, share, block);
    const rows: Omit<TrialRow, 'drawnFeatures'>[] = [];
    for (const step of steps) {
      const features = Math.min(step, plan.m);
      low.extend(features);
      const row = { features, ...compare(arithmetic, sample, block, low, wantsScores(head)) };
      rows.push(row);
      const error = Math.max(row.score.error, row.value.error);
      const will = canMix(head, row) ? enough.mixed : enough.rows;
      if (error <= will || features < step) break;
      if (features >= ALWAYS_TRIED && error > FAR * enough.rows && isUneven(head, row)) break;
    }
    const drawable = canMix(head, rows[rows.length - 1]);
    const weightsBeyond = drawable ? low.weightsBeyond(basis.features) : NONE;
    arithmetic.release(mark);
    trials.push({
      ...{ share, basis, weightsBeyond },
      rows: rows.map((row) => ({
        ...row,
        drawnFeatures: effectiveFeatures(basis.features, weightsBeyond, row.features),
      })),
    });
    if (!isUneven(head, rows[rows.length - 1])) break;
  }
  return shared(trials);
}

const NONE = new Float64Array(0);

/** With fewer of the keys making the error than this share, features drawn at random say little. */
const FEW_KEYS = 0.1;

function canMix(head: Head, { score, value }: Omit<TrialRow, 'drawnFeatures'>): boolean {
  const fewest = FEW_KEYS * head.keyLength;
  return canDrawFeatures(head) && ![score, value].some((e) => e.error > 0 && e.columns < fewest);
}

/** Errors are uneven when fewer than this share of the queries, or of the keys, would make as much alike. */
const UNEVEN_QUERIES = 0.4;
const UNEVEN_KEYS = 0.3;

/** Whether a few rows or columns make most of an error, so that it may help to put them aside. */
export function isUneven(
  { queryLength, keyLength }: Head,
  { score, value }: Omit<TrialRow, 'drawnFeatures'>,
): boolean {
  return [score, value].some(
    (e) =>
      e.error > 0 && (e.rows < UNEVEN_QUERIES * queryLength || e.columns < UNEVEN_KEYS * keyLength),
  );
}
