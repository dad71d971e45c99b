import process from 'node:process';
import { Client, ProblemError } from 'loragrad-client';

const client = new Client(process.argv[2] ?? 'http://127.0.0.1:3000');
const [L, d, r] = [256, 64, 8];
const normal = (shape, deviation = 1) => {
  const length = shape.reduce((a, b) => a * b);
  const next = () =>
    Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(6.283185 * Math.random());
  return { shape, data: Float32Array.from({ length }, () => deviation * next()) };
};

// Frozen: sent with the first step, referred to in the others.
const [W_q, W_k, W_v] = [1, 2, 3].map(() => client.keep(normal([d, d], d ** -0.5)));
const adapter = { lora_A: normal([r, d], d ** -0.5), lora_B: normal([d, r], 0.02), lora_alpha: 16 };

for (let step = 0; step < 3; step++) {
  try {
    const { gradients, threshold } = await client.gradient({
      hidden_states: normal([L, d]),
      q_proj: { weight: W_q, ...adapter },
      k_proj: { weight: W_k },
      v_proj: { weight: W_v, ...adapter },
      is_causal: true,
      grad_output: normal([L, d]),
    });
    console.log(String(gradients.q_proj.lora_A.shape), threshold.below_threshold);
  } catch (error) {
    if (error instanceof ProblemError) console.error(error.type, error.pointer, error.message);
    throw error;
  }
}
