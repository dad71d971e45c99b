/** A layer with logits of a given size and spectrum. */
import type { GradientRequest, TensorInput } from 'loragrad-client';
import { Random } from './random.js';
import type { Settings } from './settings.js';

const RANK = 8;
const ALPHA = 16;

const SPECTRA = {
  exponential: (a: number, d: number) => Math.exp((-8 * a) / d),
  harmonic: (a: number) => 1 / (a + 1),
  flat: () => 1,
};

function tensor(shape: readonly number[], value: (k: number) => number): TensorInput {
  const length = shape.reduce((product, size) => product * size, 1);
  return { shape, data: Float32Array.from({ length }, (_, k) => value(k)) };
}

/**
 * Query and key weights (H d, d): column a of head h is scaled so that the logits of that head have the deviation
 * asked for and sum_a sigma_a x_a z_a has the spectrum, in a basis of signs and shifts of its own.
 */
function weights({ headDim: d, heads, spectrum, logits }: Settings, random: Random) {
  const sigma = Array.from({ length: d }, (_, a) => SPECTRA[spectrum](a, d));
  const norm = Math.hypot(...sigma);
  const data = new Float32Array(heads * d * d);
  for (let h = 0; h < heads; h++) {
    // Logits are scaled by 1/sqrt(d).
    const deviation = logits * (heads > 1 ? 0.5 + (0.5 * h) / (heads - 1) : 1);
    const shift = Math.floor(random.uniform() * d);
    for (let a = 0; a < d; a++) {
      const sign = random.uniform() < 0.5 ? -1 : 1;
      const size = Math.sqrt((deviation * Math.sqrt(d) * sigma[a]) / norm);
      data[(h * d + a) * d + ((a + shift) % d)] = sign * size;
    }
  }
  return { shape: [heads * d, d], data };
}

/** Student's t with 4 degrees of freedom, in rows: a long row is long in every column. */
const rowScale = (tail: Settings['tail'], random: Random): number => {
  if (tail === 'normal') return 1;
  const square = Array.from({ length: 4 }, () => random.normal() ** 2).reduce((a, b) => a + b);
  return Math.sqrt(2 / square);
};

export function makeRequest(settings: Settings): GradientRequest {
  const { length: L, headDim: d, heads, tail, mask, adapters, method, tolerance, seed } = settings;
  const random = new Random(seed);
  const out = heads * d;
  const adapter = () => ({
    lora_A: tensor([RANK, d], () => random.normal() / Math.sqrt(d)),
    lora_B: tensor([out, RANK], () => 0.02 * random.normal()),
    lora_alpha: ALPHA,
  });
  const weight = weights(settings, random);
  let scale = 1;
  const common = Array.from({ length: out }, () => random.normal());
  return {
    hidden_states: tensor([L, d], (k) => {
      if (k % d === 0) scale = rowScale(tail, random);
      return scale * random.normal();
    }),
    q_proj: { weight, ...adapter() },
    k_proj: { weight, ...(adapters === 'qkv' && adapter()) },
    v_proj: { weight: tensor([out, d], () => random.normal() / Math.sqrt(d)), ...adapter() },
    num_attention_heads: heads,
    is_causal: mask === 'causal',
    // Rows share a direction, as gradients of a loss do.
    grad_output: tensor([L, out], (k) => random.normal() + 0.5 * common[k % out]),
    tolerance,
    method,
  };
}
