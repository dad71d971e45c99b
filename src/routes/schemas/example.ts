/** The ready-made example of POST /gradient in Swagger UI: four tokens, one head, rank one. */
export const GRADIENT_EXAMPLE = {
  hidden_states: [
    [0.5, -0.2, 0.1, 0.7],
    [-0.3, 0.8, 0.4, -0.1],
    [0.2, 0.1, -0.6, 0.3],
    [0.9, -0.5, 0.2, 0.4],
  ],
  q_proj: {
    weight: [
      [0.4, -0.1, 0.3, 0.2],
      [0.1, 0.5, -0.2, 0.3],
    ],
    lora_A: [[0.1, -0.2, 0.3, 0.05]],
    lora_B: [[0.2], [-0.1]],
    lora_alpha: 2,
  },
  k_proj: {
    weight: [
      [0.3, 0.2, -0.4, 0.1],
      [-0.2, 0.6, 0.1, 0.2],
    ],
  },
  v_proj: {
    weight: [
      [0.7, -0.3, 0.2, 0.1],
      [0.2, 0.4, 0.5, -0.6],
    ],
    lora_A: [[-0.1, 0.2, 0.1, 0.3]],
    lora_B: [[0.3], [0.1]],
    lora_alpha: 2,
  },
  target: [
    [1, 0],
    [0, 1],
    [1, 1],
    [0, 0],
  ],
};
