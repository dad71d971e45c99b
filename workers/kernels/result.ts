/** What every gradient kernel answers, and the memory it writes to. */
import {
  type AttentionProblem,
  PROJECTIONS,
  type Projection,
  type ProjectionName,
} from '../../src/lora/problem.js';
import type { ComposedNorms } from './norms.js';

/** Gradients of one adapter, row-major: lora_A (r, in), lora_B (out, r). */
export interface AdapterGradient<Data = Float64Array> {
  readonly lora_A: Data;
  readonly lora_B: Data;
}

export type Gradients = Partial<Record<ProjectionName, AdapterGradient>>;

export interface GradientResult {
  readonly gradients: Gradients;
  /** 1/2 ||O - Y||_F^2 summed over the batch; null when the upstream gradient was given. */
  readonly loss: number | null;
  /** (B, Lq, H dv) when it was asked for. */
  readonly attentionOutput: Float64Array | Float32Array | null;
  readonly norms: ComposedNorms;
}

/** Zeroed float64 memory, visible to every thread. */
export function sharedFloat64(length: number): Float64Array {
  return new Float64Array(new SharedArrayBuffer(length * 8));
}

function adapterGradient(projection: Projection): AdapterGradient | null {
  const { adapter, inFeatures, outFeatures } = projection;
  if (!adapter) return null;
  return {
    lora_A: sharedFloat64(adapter.rank * inFeatures),
    lora_B: sharedFloat64(outFeatures * adapter.rank),
  };
}

/** Zeroed gradients for every adapter of the problem. */
export function allocateGradients(problem: AttentionProblem): Gradients {
  const gradients: Gradients = {};
  for (const name of PROJECTIONS) {
    const gradient = adapterGradient(problem.projections[name]);
    if (gradient) gradients[name] = gradient;
  }
  return gradients;
}
