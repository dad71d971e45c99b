/** A layer for the client, as a trainer in TypeScript has it. */
import type { GradientRequest, TensorInput } from 'loragrad-client';
import { seededRandom } from './random.js';

export interface Layer {
  /** W_Q, W_K, W_V: frozen. */
  readonly weights: readonly [TensorInput, TensorInput, TensorInput];
  /** What changes from step to step; the frozen weights may be kept tensors. */
  step(seed: number, weights?: Weights): GradientRequest;
}

type Weight = NonNullable<GradientRequest['q_proj']>['weight'];
type Weights = readonly [Weight, Weight, Weight];

export function randomTensor(seed: number, shape: readonly number[], deviation = 1): TensorInput {
  const random = seededRandom(seed);
  const length = shape.reduce((a, b) => a * b, 1);
  return { shape, data: Float32Array.from({ length }, () => deviation * random.normal()) };
}

/** @param width d_in = H d; one head. */
export function randomLayer(length: number, width: number, rank = 4): Layer {
  const weight = (seed: number) => randomTensor(seed, [width, width], 1 / Math.sqrt(width));
  const weights = [weight(1), weight(2), weight(3)] as const;
  const adapter = (seed: number) => ({
    lora_A: randomTensor(seed, [rank, width], 1 / Math.sqrt(width)),
    lora_B: randomTensor(seed + 1, [width, rank], 0.1),
    lora_alpha: 8,
  });
  return {
    weights,
    step: (seed, [q, k, v]: Weights = weights) => ({
      hidden_states: randomTensor(seed, [length, width]),
      q_proj: { weight: q, ...adapter(seed + 1) },
      k_proj: { weight: k },
      v_proj: { weight: v, ...adapter(seed + 3) },
      is_causal: true,
      grad_output: randomTensor(seed + 5, [length, width]),
    }),
  };
}
