/** What an operator sees of the answers: which kernel, on which side of the threshold, how large the errors. */
import { Counter, Histogram, type Registry } from 'prom-client';
import type { Answers, WorkKind } from '../../engine/work.js';

/** Relative errors, from float32 rounding to none of the digits right. */
const RATIOS = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1];

type Answer = Partial<Answers['gradient'] & Answers['forward']>;

/** The largest upper limit of the error over the tensors of an answer; null: nothing was estimated. */
function largestError(error: NonNullable<Answer['error']>): number | null {
  const upper = Object.values(error).map(
    ({ estimate }) => estimate?.upper ?? Number.NEGATIVE_INFINITY,
  );
  const largest = Math.max(...upper);
  return Number.isFinite(largest) ? largest : null;
}

/** @returns the function that books an answer. */
export function answerMetrics(registers: Registry[]): (kind: WorkKind, answer: object) => void {
  const labelNames = ['method', 'below_threshold'] as const;
  const gradients = new Counter({
    name: 'loragrad_gradients_total',
    help: 'Gradients computed',
    labelNames,
    registers,
  });
  const forwards = new Counter({
    name: 'loragrad_forwards_total',
    help: 'Attention outputs computed without a gradient',
    labelNames,
    registers,
  });
  const fallbacks = new Counter({
    name: 'loragrad_fallbacks_total',
    help: 'Answers that another kernel than the first choice had to compute, by that which did',
    labelNames: ['method'] as const,
    registers,
  });
  const errors = new Histogram({
    name: 'loragrad_estimated_error_ratio',
    help: 'Upper limit of the relative error of an answer, the largest over its tensors',
    labelNames: ['method'] as const,
    buckets: RATIOS,
    registers,
  });
  return (kind, answer) => {
    const { method, threshold, fallback, error } = answer as Answer;
    if (!method || !threshold) return;
    const labels = { method, below_threshold: String(threshold.below_threshold) };
    if (kind === 'gradient') gradients.inc(labels);
    if (kind === 'forward') forwards.inc(labels);
    if (fallback) fallbacks.inc({ method });
    const largest = error ? largestError(error) : null;
    if (largest !== null) errors.observe({ method }, largest);
  };
}
