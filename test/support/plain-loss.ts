/**
 * The loss of a request by the formula and nothing else: loops over numbers in float64, the whole row of
 * logits at once. For finite differences on tiny problems; shares no code with the service.
 */
import type { GradientRequest, ProjectionFields } from './fixtures.js';
import { values, type WireTensor } from './wire/wire-tensor.js';

/** A projection as plain numbers; `lora_A` and `lora_B` can be changed in place between two losses. */
export interface PlainProjection {
  weight: Float64Array;
  bias: Float64Array | undefined;
  lora_A: Float64Array | undefined;
  lora_B: Float64Array | undefined;
  rank: number;
  scaling: number;
  inFeatures: number;
  outFeatures: number;
}

export interface PlainProblem {
  batch: number;
  queryLength: number;
  keyLength: number;
  heads: number;
  kvHeads: number;
  beta: number;
  causal: boolean;
  states: Record<'q_proj' | 'k_proj' | 'v_proj', Float64Array>;
  projections: Record<'q_proj' | 'k_proj' | 'v_proj', PlainProjection>;
  target: Float64Array | undefined;
  gradOutput: Float64Array | undefined;
  /** (1 or B, L, d) */
  rotary: { cos: Float64Array; sin: Float64Array; width: number } | undefined;
  keyLengths: number[] | undefined;
}

function plainProjection(fields: ProjectionFields): PlainProjection {
  const [outFeatures, inFeatures] = fields.weight.shape;
  const optional = (tensor?: WireTensor) => tensor && values(tensor);
  const rank = fields.lora_A?.shape[0] ?? 0;
  const alpha = fields.lora_alpha ?? rank;
  return {
    weight: values(fields.weight),
    bias: optional(fields.bias),
    lora_A: optional(fields.lora_A),
    lora_B: optional(fields.lora_B),
    rank,
    scaling: fields.use_rslora ? alpha / Math.sqrt(rank) : alpha / rank,
    inFeatures,
    outFeatures,
  };
}

function keyLengths(given: GradientRequest['key_lengths']): number[] | undefined {
  return Array.isArray(given) ? given : given && [...values(given)];
}

export function plainProblem(request: GradientRequest): PlainProblem {
  const query = (request.hidden_states ?? request.query_states)!;
  const key = (request.hidden_states ?? request.key_states)!;
  const value = (request.hidden_states ?? request.value_states)!;
  const heads = request.num_attention_heads ?? 1;
  return {
    batch: query.shape.length === 3 ? query.shape[0] : 1,
    queryLength: query.shape.at(-2)!,
    keyLength: key.shape.at(-2)!,
    heads,
    kvHeads: request.num_key_value_heads ?? heads,
    beta: request.scaling ?? 1 / Math.sqrt(request.q_proj.weight.shape[0] / heads),
    causal: request.is_causal ?? false,
    states: { q_proj: values(query), k_proj: values(key), v_proj: values(value) },
    projections: {
      q_proj: plainProjection(request.q_proj),
      k_proj: plainProjection(request.k_proj),
      v_proj: plainProjection(request.v_proj),
    },
    target: request.target && values(request.target),
    gradOutput: request.grad_output && values(request.grad_output),
    rotary: request.cos && {
      ...{ cos: values(request.cos), sin: values(request.sin!) },
      width: request.cos.shape.at(-1)!,
    },
    keyLengths: keyLengths(request.key_lengths),
  };
}

/** Row `row` of X (W + s B A)^T + bias. */
function project(states: Float64Array, row: number, layer: PlainProjection): number[] {
  const { inFeatures, outFeatures, rank } = layer;
  const x = (column: number) => states[row * inFeatures + column];
  const out: number[] = [];
  for (let o = 0; o < outFeatures; o++) {
    let sum = layer.bias?.[o] ?? 0;
    for (let i = 0; i < inFeatures; i++) {
      let weight = layer.weight[o * inFeatures + i];
      for (let a = 0; a < rank; a++) {
        weight += layer.scaling * layer.lora_B![o * rank + a] * layer.lora_A![a * inFeatures + i];
      }
      sum += weight * x(i);
    }
    out.push(sum);
  }
  return out;
}

function projectAll(problem: PlainProblem, name: keyof PlainProblem['states'], length: number) {
  const rows = Array.from({ length: problem.batch * length }, (_, row) => row);
  return rows.map((row) => project(problem.states[name], row, problem.projections[name]));
}

/** Rotary positions: the first channels of every head of row l of batch item b. */
function turn({ rotary, queryLength: length }: PlainProblem, rows: number[][], d: number) {
  if (!rotary) return rows;
  const { width } = rotary;
  const items = rotary.cos.length / (length * width);
  return rows.map((row, number) => {
    const table = (items === 1 ? number % length : number) * width;
    return row.map((x, k) => {
      const c = k % d;
      if (c >= width) return x;
      const other = c < width / 2 ? -row[k + width / 2] : row[k - width / 2];
      return x * rotary.cos[table + c] + other * rotary.sin[table + c];
    });
  });
}

/** 1/2 ||O - Y||^2 with a target Y, <G, O> with an upstream gradient G: same gradients as G = dLoss/dO. */
export function plainLoss(problem: PlainProblem): number {
  const { batch, queryLength, keyLength, heads, kvHeads, projections } = problem;
  const d = projections.q_proj.outFeatures / heads;
  const dv = projections.v_proj.outFeatures / kvHeads;
  const q = turn(problem, projectAll(problem, 'q_proj', queryLength), d);
  const k = turn(problem, projectAll(problem, 'k_proj', keyLength), d);
  const v = projectAll(problem, 'v_proj', keyLength);
  let loss = 0;
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const group = Math.floor((h * kvHeads) / heads);
      for (let i = 0; i < queryLength; i++) {
        const keys = problem.keyLengths?.[b] ?? keyLength;
        const visible = problem.causal ? Math.min(i + 1, keys) : keys;
        const logits: number[] = [];
        for (let j = 0; j < visible; j++) {
          let dot = 0;
          for (let c = 0; c < d; c++) {
            dot += q[b * queryLength + i][h * d + c] * k[b * keyLength + j][group * d + c];
          }
          logits.push(problem.beta * dot);
        }
        const largest = Math.max(...logits);
        const weights = logits.map((logit) => Math.exp(logit - largest));
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        for (let c = 0; c < dv; c++) {
          let output = 0;
          weights.forEach((weight, j) => {
            output += (weight / total) * v[b * keyLength + j][group * dv + c];
          });
          const at = (b * queryLength + i) * heads * dv + h * dv + c;
          loss += problem.target
            ? 0.5 * (output - problem.target[at]) ** 2
            : output * problem.gradOutput![at];
        }
      }
    }
  }
  return loss;
}
