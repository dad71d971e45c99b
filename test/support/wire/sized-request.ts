/** Requests of all kinds with sizes of their own: what they hold does not matter, how much they take does. */
import type { Random } from '../random.js';
import { encodeValues, type WireTensor } from './wire-tensor.js';

// biome-ignore lint/suspicious/noExplicitAny: a body of any shape
type Body = Record<string, any>;

export interface SizedRequest {
  readonly path: 'gradient' | 'forward' | 'plan';
  readonly body: Body;
}

/** Between 1 and `most`, as often small as large. */
const size = (random: Random, most: number) => Math.floor(most ** random.uniform());
const one = <T>(random: Random, of: readonly T[]): T => of[random.integer(0, of.length - 1)]!;
const maybe = (random: Random, share: number) => random.uniform() < share;

/** @param most numbers of the largest tensor, about. */
export function sizedRequest(random: Random, most: number): SizedRequest {
  // Now and then so large that float32 overflows.
  const huge = maybe(random, 0.15) ? 1e25 : 1;
  const scaleOf = (dtype: string) => (dtype === 'float16' ? 1 : huge);
  const tensor = (shape: readonly number[], given = 1): WireTensor => {
    const length = shape.reduce((a, b) => a * b, 1);
    const dtype = one(random, ['float32', 'float32', 'float64', 'float16', 'bfloat16']);
    const values = new Float64Array(length);
    const scale = scaleOf(dtype) * given;
    for (let k = 0; k < length; k++) values[k] = scale * (random.uniform() - 0.5);
    return encodeValues(dtype, [...shape], values);
  };
  const path = one(random, ['gradient', 'gradient', 'forward', 'plan'] as const);
  const states = maybe(random, 0.3);
  const cross = !states && maybe(random, 0.2);
  const batch = maybe(random, 0.3) ? size(random, 8) : 0;
  const items = batch || 1;
  const keyValueHeads = size(random, 6);
  const heads = keyValueHeads * size(random, 3);
  const Lq = size(random, Math.min(3000, most / (items * heads)));
  const Lk = cross ? size(random, Math.min(3000, most / (items * heads))) : Lq;
  const width = (rows: number) => 1 + size(random, Math.min(600, most / (items * rows * heads)));
  const d = 2 * width(Math.max(Lq, Lk));
  const dv = width(Math.max(Lq, Lk));
  const leading = batch ? [batch] : [];
  const attention = () => ({
    query: tensor([...leading, Lq, heads, d]),
    key: tensor([...leading, Lk, keyValueHeads, d]),
    value: tensor([...leading, Lk, keyValueHeads, dv]),
  });
  const layer = () => {
    const inputs = (rows: number) => size(random, Math.min(1000, most / (items * rows)));
    const dIn = inputs(Math.max(Lq, Lk));
    const projection = (out: number, adapted: boolean) => {
      const r = size(random, 64);
      return {
        weight: tensor([out, dIn], 1 / dIn),
        ...(maybe(random, 0.2) && { bias: tensor([out]) }),
        ...(adapted && { lora_A: tensor([r, dIn], 1 / dIn), lora_B: tensor([out, r], 0.1) }),
      };
    };
    return {
      ...(cross
        ? {
            query_states: tensor([...leading, Lq, dIn]),
            key_states: tensor([...leading, Lk, dIn]),
            value_states: tensor([...leading, Lk, dIn]),
          }
        : { hidden_states: tensor([...leading, Lq, dIn]) }),
      q_proj: projection(heads * d, true),
      k_proj: projection(keyValueHeads * d, maybe(random, 0.5)),
      v_proj: projection(keyValueHeads * dv, maybe(random, 0.7)),
      num_attention_heads: heads,
      num_key_value_heads: keyValueHeads,
      ...(!cross && maybe(random, 0.3) && { cos: tensor([Lq, d]), sin: tensor([Lq, d]) }),
    };
  };
  const masks = [
    {},
    { is_causal: true },
    { window: [size(random, Lq), 0] },
    { key_lengths: Array.from({ length: items }, () => random.integer(0, Lk)) },
    ...(cross
      ? []
      : [{ sequence_lengths: [Math.ceil(Lq / 2), Math.floor(Lq / 2)].filter(Boolean) }]),
  ];
  const methods = [
    { method: 'exact' },
    {},
    { method: 'low_rank', features: 8 * size(random, 16), tolerance: 1000 },
    { method: 'sampled', tolerance: 1000 },
    { tolerance: 1e-9 },
  ];
  const shape = states ? [...leading, Lq, heads, dv] : [...leading, Lq, heads * dv];
  const inputs = states ? [] : ['input_gradients'];
  const body: Body = {
    ...(states ? attention() : layer()),
    ...one(random, masks),
    ...one(random, methods),
    ...(maybe(random, 0.2) && { softcap: 5 }),
    ...(maybe(random, 0.2) && { sinks: tensor([heads]) }),
    ...(path === 'gradient' && { [one(random, ['target', 'grad_output'])]: tensor(shape) }),
    ...(path === 'gradient' && {
      outputs: ['gradients', 'attention_output', ...inputs].filter(
        (name) => name === 'gradients' || maybe(random, 0.4),
      ),
    }),
  };
  return { path, body };
}
