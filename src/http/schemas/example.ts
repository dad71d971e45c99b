/** Ready-made requests for the documentation; openapi/answers.json holds what the service answers to them. */

export interface Example {
  readonly summary: string;
  readonly description?: string;
  /** The body of the request. */
  readonly value: unknown;
}

type Examples = Readonly<Record<string, Example>>;

/** Four tokens, one head, rank one. */
const LAYER = {
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
};
const target = [
  [1, 0],
  [0, 1],
  [1, 1],
  [0, 0],
];

/** Two query heads share one key/value head; positions 0 to 3 rotate queries and keys. */
const GROUPED = {
  ...LAYER,
  q_proj: {
    ...LAYER.q_proj,
    weight: [...LAYER.q_proj.weight, [0.2, 0.3, -0.1, 0.4], [-0.3, 0.1, 0.2, 0.1]],
    lora_B: [...LAYER.q_proj.lora_B, [0.1], [0.3]],
  },
  num_attention_heads: 2,
  num_key_value_heads: 1,
  is_causal: true,
  cos: [0, 1, 2, 3].map((position) => [Math.cos(position), Math.cos(position)]),
  sin: [0, 1, 2, 3].map((position) => [Math.sin(position), Math.sin(position)]),
};

/** As a nested list it is read as float32. */
const TENSOR = [
  [1, 2],
  [3, 4],
];
/** SHA-256 of "float32\n2,2\n" and the four numbers. */
export const TENSOR_EXAMPLE_DIGEST =
  '8906ddd5d4c5a909fc77c47d4955f651a1eb83119b7adcb0e801232351813f65';

const exact: Example = {
  summary: 'Short: exact',
  description: 'Low-rank never pays at this length; method auto takes the exact kernel.',
  value: LAYER,
};
const lowRank: Example = {
  summary: 'Low-rank, with eight features',
  description: 'The kernel and the number of features are asked for; the answer shows its error.',
  value: { ...LAYER, method: 'low_rank', features: 8 },
};
const sampled: Example = {
  summary: 'Sampled, with two drawn keys',
  description:
    'For long sequences: near keys are taken, far keys drawn. Here all keys are near, so nothing is left to draw and the error is of rounding.',
  value: { ...LAYER, grad_output: target, method: 'sampled', keys: 2 },
};
const grouped: Example = {
  summary: 'Grouped heads, rotary positions, causal',
  value: GROUPED,
};
const padding: Example = {
  summary: 'A batch with padding',
  description: 'The second item has two tokens; the keys after them get no probability.',
  value: {
    ...LAYER,
    hidden_states: [LAYER.hidden_states, LAYER.hidden_states.slice().reverse()],
    key_lengths: [4, 2],
  },
};
/** One head: projected, normalised and rotated by the client. */
const STATES = {
  query: [[[0.4, -0.1]], [[0.2, 0.3]], [[-0.3, 0.5]], [[0.1, 0.6]]],
  key: [[[0.3, 0.2]], [[-0.2, 0.6]], [[0.5, -0.1]], [[0.2, 0.1]]],
  value: [[[0.7, -0.3]], [[0.2, 0.4]], [[0.1, 0.5]], [[-0.6, 0.2]]],
  is_causal: true,
};
const attentionStates: Example = {
  summary: 'Attention states: queries, keys and values as the client has them',
  value: STATES,
};
const reference: Example = {
  summary: 'A weight that the service keeps',
  description:
    'Execute PUT /tensors/{sha256} first: until then the answer is 409, with what is missing.',
  value: {
    hidden_states: [
      [0.5, -0.2],
      [-0.3, 0.8],
      [0.2, 0.1],
    ],
    q_proj: { weight: TENSOR, lora_A: [[0.1, -0.2]], lora_B: [[0.2], [-0.1]] },
    k_proj: { weight: { $ref: `sha256:${TENSOR_EXAMPLE_DIGEST}` } },
    v_proj: { weight: TENSOR },
  },
};
const fails: Example = {
  summary: 'One that fails',
  description: 'lora_A has a column too few: 422, with a pointer to it.',
  value: { ...LAYER, q_proj: { ...LAYER.q_proj, lora_A: [[0.1, -0.2, 0.3]] } },
};

const extended = (example: Example, more: object): Example => ({
  ...example,
  value: { ...(example.value as object), ...more },
});
const threeTargets = target.slice(0, 3);

/** By operationId, then by name; the first is shown first. */
export const REQUEST_EXAMPLES: Readonly<Record<string, Examples>> = {
  gradient: {
    exact: extended(exact, { target }),
    low_rank: extended(lowRank, { target }),
    sampled,
    grouped_heads_rotary: extended(grouped, { target: target.map((row) => [...row, ...row]) }),
    padding: extended(padding, { target: [target, target] }),
    attention_states: extended(attentionStates, { target: target.map((row) => [row]) }),
    reference: extended(reference, { target: threeTargets }),
    fails: extended(fails, { target }),
  },
  forward: {
    exact,
    low_rank: lowRank,
    grouped_heads_rotary: grouped,
    padding,
    attention_states: attentionStates,
    reference,
    fails,
  },
  plan: {
    exact,
    low_rank: lowRank,
    sampled,
    grouped_heads_rotary: grouped,
    padding,
    attention_states: attentionStates,
    reference,
    fails,
  },
  putTensor: { two_by_two: { summary: 'Four numbers', value: TENSOR } },
};
