/** The answers of POST /gradient, POST /plan and POST /forward, for the OpenAPI document. */
import Type, { type TSchema } from 'typebox';
import type { EncodedTensor } from '../../../workers/tensor/encoded.js';
import { tensorField } from '../../wire/schema.js';
import { Threshold } from './threshold.js';

const Tensor = tensorField<EncodedTensor>;

const adapterGradient = (name: string) =>
  Type.Object(
    {
      lora_A: Tensor('dLoss/d lora_A, shape (r, d_in), dtype of lora_A.'),
      lora_B: Tensor('dLoss/d lora_B, shape (out, r), dtype of lora_B.'),
    },
    { description: `Gradients of the adapter of ${name}.` },
  );

const inputGradient = (name: string) =>
  Type.Optional(Tensor(`dLoss/d ${name}, in its shape and dtype.`));

const KernelBuild = Type.String({
  description:
    'Build of the inner loops: avx512, avx2, neon, wasm-relaxed or wasm-plain. Answers of the same build are the same to the last bit; between builds they differ by rounding.',
});

const nullable = <T extends TSchema>(schema: T, description: string) =>
  Type.Union([schema, Type.Null()], { description });

const Plan = Type.Object(
  {
    features: nullable(
      Type.Integer(),
      'm, number of low-rank features, the largest over the heads; null: nothing was planned.',
    ),
    max_degree: nullable(Type.Integer(), 'Largest degree of a feature.'),
    outlier_queries: nullable(Type.Integer(), 'Query rows computed exactly, over all heads.'),
    outlier_keys: nullable(
      Type.Integer(),
      'Keys whose column is computed exactly, over all heads.',
    ),
    flops: Type.Number({ description: 'Floating-point operations of the kernel of `method`.' }),
    exact_flops: Type.Number({ description: 'Floating-point operations of the exact kernel.' }),
    break_even_length: nullable(
      Type.Integer(),
      'L from which low-rank is cheaper on this machine, at this share of outliers; null: never.',
    ),
    predicted_error: nullable(
      Type.Number(),
      'Upper limit of the relative error to expect of low-rank.',
    ),
    expected_ms: Type.Object(
      {
        exact: Type.Number({ description: 'Exact kernel, ms on one thread.' }),
        low_rank: nullable(Type.Number(), 'Low-rank kernel, ms on one thread.'),
        low_rank_linear: nullable(
          Type.Number(),
          'The part of low_rank that grows with L; the rest grows with L^2, as exact does.',
        ),
        sampled: nullable(Type.Number(), 'Sampled kernel, ms on one thread.'),
        sampled_linear: nullable(
          Type.Number(),
          'The part of sampled that grows with L; the rest grows with L^2.',
        ),
      },
      { description: 'Time to expect on this machine.' },
    ),
    sampled: nullable(
      Type.Object({
        keys: Type.Integer({
          description: 'Mean number of far keys that are drawn for a block of 64 query rows.',
        }),
        coordinates: Type.Array(Type.Integer(), {
          description:
            'By head of all batch items: coordinates of the logits that decide the draws; 0: the head is computed exactly.',
        }),
        levels: Type.Integer({ description: 'Levels of drawing: 1.' }),
        predicted_error: Type.Number({
          description: 'Upper limit of the relative error to expect.',
        }),
        tried: Type.Array(
          Type.Object(
            {
              keys: Type.Integer({
                description: 'Mean number of far keys that are drawn for a block.',
              }),
              error: Type.Number({ description: 'Upper limit of the relative error to expect.' }),
              ms: Type.Number({ description: 'Time to expect on one thread.' }),
            },
            { description: 'One number of drawn keys.' },
          ),
          {
            description: 'Expected error and time with other numbers of keys, with no head exact.',
          },
        ),
      }),
      'Draws of the sampled kernel; null: nothing was planned.',
    ),
    tried: Type.Array(
      Type.Object(
        {
          features: Type.Integer({ description: 'm, number of low-rank features.' }),
          error: nullable(
            Type.Number(),
            'Upper limit of the relative error to expect, of the worst head; null: no limit.',
          ),
          ms: Type.Number({ description: 'Time to expect on one thread.' }),
        },
        { description: 'One number of features.' },
      ),
      {
        description: 'The numbers of features that the plan looked at; empty: nothing was planned.',
      },
    ),
  },
  { description: 'What is computed, and at what cost.' },
);

const relative = (description: string) =>
  Type.Number({ description: `${description}, relative to the norm of the gradient.` });

const Estimate = Type.Object(
  {
    relative: relative('Frobenius norm of the estimated error'),
    upper: relative('Upper limit of the error at the stated confidence'),
    confidence: Type.Number({ description: 'Confidence of the upper limit: 0.99.' }),
    standard_error: relative('Standard error of the estimate'),
    rows_sampled: Type.Integer({ description: 'Query rows computed again.' }),
  },
  {
    description:
      'Statistical. Exact: sampled rows are computed again in float64. Low-rank: sampled rows are computed by the exact formula in float32, and mixtures tell of the features left out; what rounding may do is in `upper`. Sampled: some blocks of rows are computed with all their keys, and `relative` is the expected size of the error. Rounding to the dtype of the answer is in the figures.',
  },
);

const TensorError = Type.Object(
  {
    estimate: Type.Union([Estimate, Type.Null()], {
      description:
        'null: computed in float64, with nothing more precise to compare with, or zero but for rounding; or not measured (input gradients).',
    }),
    certificate: nullable(
      Type.Object({
        frobenius: Type.Number({ description: 'Bound of the Frobenius norm of the error.' }),
        relative: relative('The same bound'),
      }),
      'Deterministic worst-case bound of a low-rank gradient, on request; null: see certificate_reason.',
    ),
    certificate_reason: Type.Optional(
      Type.String({ description: 'Why there is no certificate, in one sentence.' }),
    ),
  },
  { description: 'How large the error of one tensor is.' },
);

const TensorErrors = Type.Record(Type.String(), TensorError, {
  description:
    'How large the error is, by gradient tensor: "q_proj.lora_A", ..., "input_gradients.hidden_states", ..., or "query", "key", "value", "sinks".',
});

const milliseconds = (description: string) => Type.Number({ description: `${description}, ms.` });

const Timings = Type.Object(
  {
    decode: milliseconds('Widening the tensors and searching them for NaN'),
    queue: milliseconds('Waiting for a worker'),
    plan: milliseconds('Choosing the kernel'),
    compute: milliseconds('Computing'),
    encode: milliseconds('Narrowing the results to their dtypes'),
    total: milliseconds('From the decoded body to the answer'),
  },
  { description: 'Where the time went, in milliseconds.' },
);

const METHOD = Type.Enum(['exact', 'low_rank', 'sampled'], {
  description: 'The kernel that was used.',
});
const REASON = Type.String({
  description: 'Why this kernel, in one sentence; a second one where theory and practice differ.',
});
const FALLBACK = Type.Boolean({
  description:
    'Whether the first choice could not be used (it missed the tolerance, or numbers overflowed) and another kernel computed the answer; see reason.',
});
const SEED = Type.Integer({ description: 'The seed that was used.' });

export const GradientAnswerSchema = Type.Object(
  {
    method: METHOD,
    reason: REASON,
    fallback: FALLBACK,
    threshold: Threshold,
    loss: Type.Optional(
      Type.Number({
        description: '1/2 ||O - Y||_F^2, when a target was given; summed over the batch.',
      }),
    ),
    gradients: Type.Optional(
      Type.Object(
        {
          q_proj: Type.Optional(adapterGradient('q_proj')),
          k_proj: Type.Optional(adapterGradient('k_proj')),
          v_proj: Type.Optional(adapterGradient('v_proj')),
          query: inputGradient('query'),
          key: inputGradient('key'),
          value: inputGradient('value'),
          sinks: inputGradient('sinks'),
        },
        {
          description:
            'One entry for each projection with an adapter, or query, key and value for attention states; and sinks. Those of adapters and sinks are summed over the batch.',
        },
      ),
    ),
    attention_output: Type.Optional(
      Tensor(
        'O, shape (Lq, H dv) or (B, Lq, H dv), of attention states (Lq, H, dv) or (B, Lq, H, dv), in the dtype of target or grad_output.',
      ),
    ),
    input_gradients: Type.Optional(
      Type.Object(
        {
          hidden_states: inputGradient('hidden_states'),
          query_states: inputGradient('query_states'),
          key_states: inputGradient('key_states'),
          value_states: inputGradient('value_states'),
        },
        {
          description:
            'When asked for: hidden_states for self-attention, the other three for cross-attention.',
        },
      ),
    ),
    error: TensorErrors,
    error_of: Type.Optional(
      Type.Enum(['weights', 'gradients'], {
        description:
          'Of a sampled answer, whose errors those of query, key and value are. weights: of X^T dQ, X^T dK, X^T dV, where `inputs` has X; gradients: of the gradients themselves.',
      }),
    ),
    plan: Plan,
    timings_ms: Timings,
    kernels: KernelBuild,
    seed: SEED,
  },
  { $id: 'GradientAnswer', description: 'Gradients, verdict, plan and timings.' },
);

export const ForwardAnswerSchema = Type.Object(
  {
    method: METHOD,
    reason: REASON,
    fallback: FALLBACK,
    threshold: Threshold,
    attention_output: Tensor(
      'O, shape (Lq, H dv) or (B, Lq, H dv), of attention states (Lq, H, dv) or (B, Lq, H, dv), in the dtype of hidden_states, query_states or query.',
    ),
    error: Type.Object(
      { attention_output: TensorError },
      { description: 'How large the error of the attention output is.' },
    ),
    plan: Plan,
    timings_ms: Timings,
    kernels: KernelBuild,
    seed: SEED,
  },
  { $id: 'ForwardAnswer', description: 'Attention output, verdict, plan and timings.' },
);

export const PlanAnswerSchema = Type.Object(
  { method: METHOD, reason: REASON, threshold: Threshold, plan: Plan, timings_ms: Timings },
  { $id: 'PlanAnswer', description: 'The verdict and the plan, without the gradient.' },
);
