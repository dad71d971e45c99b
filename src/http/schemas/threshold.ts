/** The verdict of the efficiency threshold, as every answer has it. */
import Type from 'typebox';

const norm = (what: string) =>
  Type.Number({
    description: `Largest absolute entry of ${what}.`,
  });

const gamma = Type.Number({ description: 'Gamma: the larger of norms.query and norms.key.' });
const below_threshold = Type.Boolean({
  description:
    'gamma < limit: an almost-linear algorithm exists. Asymptotic; the constant 1 is a convention.',
});
const norms = Type.Object(
  {
    query_frozen: norm('sqrt(beta) (X^Q W_Q^T + bias)'),
    query_adapter: norm('sqrt(beta) s X^Q A_Q^T B_Q^T'),
    query: norm("Q' = sqrt(beta) Q, the sum of both"),
    key_frozen: norm('sqrt(beta) (X^K W_K^T + bias)'),
    key_adapter: norm('sqrt(beta) s X^K A_K^T B_K^T'),
    key: norm("K' = sqrt(beta) K, the sum of both"),
    value: norm('V'),
  },
  {
    description:
      'The composed norms that decide on the efficient regime. With cos and sin: of queries and keys as they meet in the scores, both parts rotated. Keys that are padding do not count.',
  },
);

const HeadThreshold = Type.Object(
  {
    batch_item: Type.Integer({ description: 'Index of the batch item.' }),
    head: Type.Integer({ description: 'Index of the query head.' }),
    gamma,
    below_threshold,
    norms,
  },
  { description: 'One query head of one batch item.' },
);

export const Threshold = Type.Object(
  {
    gamma,
    limit: Type.Number({ description: 'sqrt(ln L).' }),
    ratio: Type.Union([Type.Number(), Type.Null()], {
      description: 'gamma / limit; null for L = 1.',
    }),
    below_threshold,
    sequence_length: Type.Integer({ description: 'L, the larger of Lq and Lk.' }),
    head_dim_over_log_length: Type.Union([Type.Number(), Type.Null()], {
      description: 'd / ln L; the theorem also needs d = O(log L). null for L = 1.',
    }),
    norms,
    heads: Type.Array(HeadThreshold, {
      description: 'Norms and verdict of every query head of every batch item.',
    }),
  },
  {
    description: 'The efficiency threshold of arXiv 2406.03136 at this length, also head by head.',
  },
);
