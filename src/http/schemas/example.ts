/** Ready-made examples for Swagger UI. */

/** POST /gradient: four tokens, one head, rank one. */
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

const { target: _, ...layer } = GRADIENT_EXAMPLE;
/** The same layer, for POST /forward. */
export const FORWARD_EXAMPLE = layer;
/** PUT /tensors: as a nested list it is read as float32. */
export const TENSOR_EXAMPLE = [
  [1, 2],
  [3, 4],
];

/** SHA-256 of "float32\n2,2\n" and the four numbers. */
export const TENSOR_EXAMPLE_DIGEST =
  '8906ddd5d4c5a909fc77c47d4955f651a1eb83119b7adcb0e801232351813f65';
