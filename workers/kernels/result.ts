/** What every gradient kernel answers, and the memory it writes to. */
import {
  type AttentionKind,
  type AttentionLayer,
  type AttentionProblem,
  PROJECTIONS,
  type Projection,
  type ProjectionName,
  STATES,
  type StatesName,
} from '../problem.js';
import type { ComposedNorms } from './norms.js';

/** (B H): of each query head of each batch item, heads of a batch item one after the other. */
export type HeadNorms = readonly ComposedNorms[];

/** Gradients of one adapter, row-major: lora_A (r, in), lora_B (out, r). */
export interface AdapterGradient<Data = Float64Array> {
  readonly lora_A: Data;
  readonly lora_B: Data;
}

export type Gradients = Partial<Record<ProjectionName, AdapterGradient>>;

/** Gradients that are sums over all rows. */
export interface ParameterGradients {
  readonly gradients: Gradients;
  /** (H); null: the layer has no sinks. */
  readonly sinks: Float64Array | null;
}

/** 'q_proj.lora_A' and so on, with the gradient. */
export function tensorsOf({ gradients, sinks }: ParameterGradients): [string, Float64Array][] {
  const adapters = Object.entries(gradients).flatMap(([projection, { lora_A, lora_B }]) => [
    [`${projection}.lora_A`, lora_A] as [string, Float64Array],
    [`${projection}.lora_B`, lora_B] as [string, Float64Array],
  ]);
  return sinks ? [...adapters, ['sinks', sinks]] : adapters;
}

/** dLoss/dX in the shape of X, by the client's name of X. */
export type InputGradients<Data = Float32Array | Float64Array> = Partial<Record<StatesName, Data>>;

/** What is wanted beside the gradients of the adapters. */
export interface GradientOutputs {
  readonly attentionOutput: boolean;
  /** self: the three gradients add up, for they are those of one tensor. Absent: none. */
  readonly inputGradients?: AttentionKind | undefined;
}

export interface GradientResult extends ParameterGradients {
  /** 1/2 ||O - Y||_F^2 summed over the batch; null when the upstream gradient was given. */
  readonly loss: number | null;
  /** (B, Lq, H dv) when it was asked for. */
  readonly attentionOutput: Float64Array | Float32Array | null;
  readonly inputGradients: InputGradients | null;
  readonly headNorms: HeadNorms;
}

/** The attention alone. */
export interface ForwardResult {
  /** (B, Lq, H dv) */
  readonly attentionOutput: Float64Array | Float32Array;
  readonly headNorms: HeadNorms;
}

/** Zeroed memory, visible to every thread. */
export function sharedFloat64(length: number): Float64Array {
  return new Float64Array(new SharedArrayBuffer(length * 8));
}

export function sharedFloat32(length: number): Float32Array {
  return new Float32Array(new SharedArrayBuffer(length * 4));
}

/** Zeroed gradients for every adapter of the problem, and for its sinks: all in one block of memory. */
export function allocateGradients({
  projections,
  sinks,
  dims,
}: AttentionProblem): ParameterGradients {
  const sizes = ({ adapter, inFeatures, outFeatures }: Projection) =>
    adapter ? [adapter.rank * inFeatures, outFeatures * adapter.rank] : [0, 0];
  const all = PROJECTIONS.flatMap((name) => sizes(projections[name]));
  const memory = sharedFloat64(all.reduce((a, b) => a + b, sinks ? dims.heads : 0));
  let used = 0;
  const take = (length: number) => {
    used += length;
    return memory.subarray(used - length, used);
  };
  const gradients: Gradients = {};
  for (const name of PROJECTIONS) {
    const [a, b] = sizes(projections[name]);
    if (a! + b! > 0) gradients[name] = { lora_A: take(a!), lora_B: take(b!) };
  }
  return { gradients, sinks: sinks ? take(dims.heads) : null };
}

/** Zeroed gradients of the inputs. */
export function allocateInputGradients<Data extends Float32Array | Float64Array>(
  { inputs }: AttentionLayer,
  kind: AttentionKind | undefined,
  allocate: (length: number) => Data,
): InputGradients<Data> | null {
  if (!kind) return null;
  const gradients: InputGradients<Data> = {};
  for (const role of ['query', 'key', 'value'] as const) {
    gradients[STATES[kind][role]] ??= allocate(inputs[role].data.length);
  }
  return gradients;
}

/** Zeroed memory for all that a float32 kernel answers. */
export function allocateOutputs(problem: AttentionProblem, outputs: GradientOutputs) {
  const { batch, queryLength, heads, valueDim } = problem.dims;
  return {
    totals: allocateGradients(problem),
    inputGradients: allocateInputGradients(problem, outputs.inputGradients, sharedFloat32),
    /** (B, Lq, H dv) */
    attentionOutput: outputs.attentionOutput
      ? sharedFloat32(batch * queryLength * heads * valueDim)
      : null,
  };
}

/** Which of the inputs a projection is applied to. */
export const ROLES = { q_proj: 'query', k_proj: 'key', v_proj: 'value' } as const;
