/** The bodies of POST /gradient, POST /plan and POST /forward, in the names of PEFT and Transformers. */
import Type, { type Static } from 'typebox';
import type { GivenTensor } from '../../workers/tensor/tensor.js';
import { givenTensorField } from '../wire/schema.js';

const Tensor = givenTensorField<GivenTensor>;

const projection = (name: string, rows: string) =>
  Type.Object(
    {
      weight: Tensor(`Frozen weight, shape (${rows}, d_in).`),
      bias: Type.Optional(Tensor(`Frozen bias, shape (${rows}).`)),
      lora_A: Type.Optional(
        Tensor('Adapter, shape (r, d_in). Without lora_A and lora_B the projection is frozen.'),
      ),
      lora_B: Type.Optional(Tensor(`Adapter, shape (${rows}, r).`)),
      lora_alpha: Type.Optional(
        Type.Number({ description: 'Adapter scaling is lora_alpha / r. Default: r.' }),
      ),
      use_rslora: Type.Optional(
        Type.Boolean({
          default: false,
          description: 'Rank-stabilised LoRA: the adapter scaling is lora_alpha / sqrt(r).',
        }),
      ),
    },
    {
      additionalProperties: false,
      description: `The ${name} projection: a frozen weight and, if it is adapted, its LoRA adapter.`,
    },
  );

/** About what computing in bfloat16 costs. */
export const DEFAULT_TOLERANCE = 0.01;

export const METHODS = ['auto', 'exact', 'low_rank', 'sampled'] as const;
export const MAX_FEATURES = 1024;
export const OUTPUTS_DTYPES = ['same', 'float32'] as const;
const OUTPUTS = ['gradients', 'attention_output', 'input_gradients'] as const;

/** What every route takes: a layer, and how to compute it. */
const LAYER = {
  hidden_states: Type.Optional(
    Tensor(
      'Self-attention: X, shape (L, d_in) or (B, L, d_in). Excludes query_states, key_states and value_states.',
    ),
  ),
  query_states: Type.Optional(
    Tensor(
      'Cross-attention: X^Q, shape (Lq, d_in) or (B, Lq, d_in); with key_states and value_states.',
    ),
  ),
  key_states: Type.Optional(
    Tensor(
      'Cross-attention: X^K, shape (Lk, d_in) or (B, Lk, d_in); d_in may differ from that of the queries.',
    ),
  ),
  value_states: Type.Optional(Tensor('Cross-attention: X^V, shape (Lk, d_in) or (B, Lk, d_in).')),
  q_proj: Type.Optional(projection('query', 'H d')),
  k_proj: Type.Optional(projection('key', 'Hkv d')),
  v_proj: Type.Optional(projection('value', 'Hkv dv')),
  query: Type.Optional(
    Tensor(
      'Attention states, with key and value, in place of inputs and projections: queries as they meet the keys, projected, normalised and rotated; shape (L, H, d) or (B, L, H, d). The gradients are then those of query, key and value.',
    ),
  ),
  key: Type.Optional(Tensor('Keys, shape (Lk, Hkv, d) or (B, Lk, Hkv, d); Hkv divides H.')),
  value: Type.Optional(Tensor('Values, shape (Lk, Hkv, dv) or (B, Lk, Hkv, dv).')),
  num_attention_heads: Type.Optional(
    Type.Integer({ minimum: 1, default: 1, description: 'H, number of query heads.' }),
  ),
  num_key_value_heads: Type.Optional(
    Type.Integer({
      minimum: 1,
      description:
        'Hkv, number of key/value heads; divides H (grouped-query attention). Default: H.',
    }),
  ),
  scaling: Type.Optional(
    Type.Number({
      exclusiveMinimum: 0,
      description: 'beta in softmax(beta Q K^T). Default: 1/sqrt(d), d the width of a head.',
    }),
  ),
  is_causal: Type.Optional(
    Type.Boolean({
      default: false,
      description:
        'Row i sees keys j <= i (top-left aligned when Lq differs from Lk, as in PyTorch).',
    }),
  ),
  window: Type.Optional(
    Tensor(
      'Sliding window [left, right]: row i sees keys i - left to i + right at most; -1: no limit, as in FlashAttention. A plain list of two integers is accepted. The sliding_window W of Transformers is left = W - 1.',
    ),
  ),
  softcap: Type.Optional(
    Type.Number({
      exclusiveMinimum: 0,
      description: 'Soft cap c of the scores: S = c tanh(beta Q K^T / c), as in Gemma 2.',
    }),
  ),
  sinks: Type.Optional(
    Tensor(
      "Attention sinks, shape (H,): a logit more in the softmax of each head's rows, without a value, as in GPT-OSS. The gradients hold theirs.",
    ),
  ),
  cos: Type.Optional(
    Tensor(
      'Rotary positions, with sin: shape (L, r), (1, L, r) or (B, L, r), as Transformers computes them. The first r channels x of every query and key become x cos + rotate_half(x) sin, rotate_half(x) = cat(-x2, x1), before the scores; r = d, or less for partial rotary positions. Needs Lq = Lk and an even r.',
    ),
  ),
  sin: Type.Optional(Tensor('Rotary positions, with cos and of its shapes.')),
  key_lengths: Type.Optional(
    Tensor(
      'Padding: for each batch item an integer from 0 to Lk, shape (B,); a plain list is accepted. Keys from there on get no probability. All query rows are computed; those that see no key have output 0 and no gradient.',
    ),
  ),
  first_keys: Type.Optional(
    Tensor(
      'Padding on the left: for each batch item the first key that is no padding, an integer from 0 to Lk, shape (B,). A plain list is accepted.',
    ),
  ),
  sequence_lengths: Type.Optional(
    Type.Union(
      [
        Tensor('One list, or an array of equally long ones, (n,) or (B, n)'),
        Type.Array(Tensor('The list of a batch item')),
      ],
      {
        description:
          'Packed sequences: their lengths, positive integers with sum L, for all batch items, or a list of them for each. Rows see keys of their own sequence only. Needs Lq = Lk.',
      },
    ),
  ),
  method: Type.Optional(
    Type.Enum([...METHODS], {
      default: 'auto',
      description:
        'Which kernel: auto lets the service choose the cheapest that keeps the tolerance. low_rank pays where logits are small, sampled on trained models and long sequences.',
    }),
  ),
  tolerance: Type.Optional(
    Type.Number({
      exclusiveMinimum: 0,
      default: DEFAULT_TOLERANCE,
      description:
        'Relative error in the Frobenius norm, allowed for every gradient tensor. Dimensionless.',
    }),
  ),
  features: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: MAX_FEATURES,
      description:
        'Low-rank only: this number of features, no search. Without an explicit tolerance the answer is given whatever its error.',
    }),
  ),
  keys: Type.Optional(
    Type.Integer({
      minimum: 1,
      description:
        'Sampled only: mean number of far keys that are drawn for a block of 64 query rows, no search. Without an explicit tolerance the answer is given whatever its error.',
    }),
  ),
  correction: Type.Optional(
    Type.Boolean({
      default: false,
      description:
        'Low-rank only: add the estimated error, which makes the gradient unbiased with the standard error that the answer states.',
    }),
  ),
  outputs_dtype: Type.Optional(
    Type.Enum([...OUTPUTS_DTYPES], {
      default: 'same',
      description:
        'Dtype of the tensors of the answer. same: gradients in the dtype of their tensor, an output in that of grad_output, target or the states. The error figures hold for what is sent.',
    }),
  ),
  seed: Type.Optional(
    Type.Integer({
      minimum: 0,
      maximum: 2 ** 32 - 1,
      default: 0,
      description: 'Seed of everything random; the same seed gives the same answer, bit for bit.',
    }),
  ),
};

export const GradientRequest = Type.Object(
  {
    ...LAYER,
    target: Type.Optional(
      Tensor(
        'Y, shape (Lq, H dv) or (B, Lq, H dv): the objective is 1/2 ||O - Y||_F^2. Excludes grad_output.',
      ),
    ),
    grad_output: Type.Optional(
      Tensor('dLoss/dO, shape (Lq, H dv) or (B, Lq, H dv): what a trainer has. Excludes target.'),
    ),
    certificate: Type.Optional(
      Type.Boolean({
        default: false,
        description:
          'Low-rank only: compute the deterministic worst-case bound of every adapter gradient, too. It costs about as much as the gradient.',
      }),
    ),
    log_sum_exp: Type.Optional(
      Tensor(
        'With query, key and value: what the forward pass has for each row, ln of the sum of e^S over the keys that it sees (and the sink), shape (H, Lq) or (B, H, Lq), float32. Saves the service a pass; refused when it does not belong to these scores. Rows that see no key may hold any number.',
      ),
    ),
    attention_output: Type.Optional(
      Tensor(
        'With query, key and value: O of the forward pass, shape (Lq, H, dv) or (B, Lq, H, dv). With a target it saves the service that product. Refused when it does not belong to these values.',
      ),
    ),
    inputs: Type.Optional(
      Type.Object(
        {
          hidden_states: Type.Optional(
            Tensor(
              'X of all three projections, in place of query, key and value: shape (L, d_in) or (B, L, d_in).',
            ),
          ),
          query: Type.Optional(
            Tensor('X of the query projection, shape (Lq, d_in) or (B, Lq, d_in).'),
          ),
          key: Type.Optional(Tensor('X of the key projection, shape (Lk, d_in) or (B, Lk, d_in).')),
          value: Type.Optional(
            Tensor('X of the value projection, shape (Lk, d_in) or (B, Lk, d_in).'),
          ),
          cos: Type.Optional(
            Tensor(
              'With sin: the positions by which queries and keys were rotated, shape (L, r), (1, L, r) or (B, L, r), r up to d.',
            ),
          ),
          sin: Type.Optional(Tensor('With cos and of its shapes.')),
        },
        {
          additionalProperties: false,
          description:
            'With query, key and value: the rows that entered each projection. Errors and tolerance of a sampled gradient of query are then those of X^T dQ, the gradient of the weights of its projection, and so on: errors of independent rows average out in it. The answer says so by error_of.',
        },
      ),
    ),
    outputs: Type.Optional(
      Type.Array(Type.Enum([...OUTPUTS]), {
        default: ['gradients'],
        uniqueItems: true,
        minItems: 1,
        description:
          'What the answer has beside the verdict and the plan. input_gradients: dLoss/dX for hidden_states, or for query_states, key_states and value_states.',
      }),
    ),
  },
  {
    $id: 'GradientRequest',
    additionalProperties: false,
    description: 'The tensors of one attention layer, in the names of PEFT and Transformers.',
  },
);

export const ForwardRequest = Type.Object(LAYER, {
  $id: 'ForwardRequest',
  additionalProperties: false,
  description: 'The body of POST /gradient without target, grad_output and outputs.',
});

/** As the routes see them: references have been replaced by the tensors of the store. */
export type GradientRequest = Static<typeof GradientRequest>;
export type ForwardRequest = Static<typeof ForwardRequest>;
export type ProjectionRequest = NonNullable<ForwardRequest['q_proj']>;
