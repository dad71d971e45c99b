/** What an operator sees of the answers: which kernel, on which side of the threshold, how large the errors. */
import { Counter, Histogram, type Registry } from 'prom-client';
import type { Verdict } from '../../engine/messages.js';
import type { WorkKind } from '../../engine/work.js';

/** Relative errors, from float32 rounding to none of the digits right. */
const RATIOS = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1];

/** @returns the function that books an answer. */
export function answerMetrics(registers: Registry[]): (kind: WorkKind, verdict: Verdict) => void {
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
  return (kind, { method, belowThreshold, fallback, largestError }) => {
    const labels = { method, below_threshold: String(belowThreshold) };
    if (kind === 'gradient') gradients.inc(labels);
    if (kind === 'forward') forwards.inc(labels);
    if (fallback) fallbacks.inc({ method });
    if (largestError !== null) errors.observe({ method }, largestError);
  };
}
