/** Valid problems of random shape, for fast-check. */
import fc from 'fast-check';
import type { GradientRequest, ProjectionFields } from './fixtures.js';
import { encodeValues, type WireTensor } from './wire/wire-tensor.js';

const size = (max: number) => fc.integer({ min: 1, max });
/** An index into the palette of the problem. */
const dtype = fc.nat({ max: 11 });
/** Most dialects cannot write every dtype, so not every problem may mix them all. */
const palette = fc.constantFrom(
  ['float32'],
  ['float32', 'float16'],
  ['float32', 'float64', 'float16'],
  ['float32', 'float16', 'bfloat16'],
  ['float32', 'float64', 'float16', 'bfloat16'],
);
const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });

const adapter = fc.record({
  rank: size(4),
  dtypes: fc.record({ lora_A: dtype, lora_B: dtype }),
  lora_alpha: maybe(fc.constantFrom(0.5, 1, 8, 16)),
  use_rslora: maybe(fc.boolean()),
});
const projection = fc.record({
  weightDtype: dtype,
  biasDtype: maybe(dtype),
  adapter: maybe(adapter),
});

const shape = fc.record({
  seed: fc.nat(),
  palette,
  batch: maybe(size(3)),
  queryLength: size(12),
  // Cross-attention has its own lengths and widths.
  cross: maybe(fc.record({ keyLength: size(12), keyWidth: size(6), valueWidth: size(6) })),
  width: size(6),
  kvHeads: size(3),
  group: size(3),
  headDim: size(5),
  valueDim: size(5),
  statesDtype: dtype,
  objective: fc.constantFrom('target' as const, 'grad_output' as const),
  objectiveDtype: dtype,
  projections: fc
    .tuple(projection, projection, projection)
    .filter((all) => all.some((one) => one.adapter !== undefined)),
  is_causal: maybe(fc.boolean()),
  scaling: maybe(fc.constantFrom(0.1, 1, 1.5)),
  attentionOutput: fc.boolean(),
});
type Shape = typeof shape extends fc.Arbitrary<infer T> ? T : never;

/** Numbers between -1 and 1 from a 32-bit xorshift: they need not be good, only reproducible. */
function generator(seed: number): () => number {
  let state = seed ^ 0x9e3779b9 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state / 2 ** 31;
  };
}

function build(from: Shape): GradientRequest {
  const next = generator(from.seed);
  const tensor = (of: number, dims: readonly number[]): WireTensor => {
    const length = dims.reduce((product, dim) => product * dim, 1);
    const name = from.palette[of % from.palette.length];
    return encodeValues(name, [...dims], Float64Array.from({ length }, next));
  };
  const { cross, width, queryLength, headDim, valueDim, kvHeads } = from;
  const heads = kvHeads * from.group;
  const batch = from.batch === undefined ? [] : [from.batch];
  const states = (length: number, columns: number) =>
    tensor(from.statesDtype, [...batch, length, columns]);
  const fields = (index: number, out: number, columns: number): ProjectionFields => {
    const { weightDtype, biasDtype, adapter } = from.projections[index];
    return {
      weight: tensor(weightDtype, [out, columns]),
      ...(biasDtype !== undefined && { bias: tensor(biasDtype, [out]) }),
      ...(adapter && {
        lora_A: tensor(adapter.dtypes.lora_A, [adapter.rank, columns]),
        lora_B: tensor(adapter.dtypes.lora_B, [out, adapter.rank]),
        ...(adapter.lora_alpha !== undefined && { lora_alpha: adapter.lora_alpha }),
        ...(adapter.use_rslora !== undefined && { use_rslora: adapter.use_rslora }),
      }),
    };
  };
  return {
    ...(cross
      ? {
          query_states: states(queryLength, width),
          key_states: states(cross.keyLength, cross.keyWidth),
          value_states: states(cross.keyLength, cross.valueWidth),
        }
      : { hidden_states: states(queryLength, width) }),
    q_proj: fields(0, heads * headDim, width),
    k_proj: fields(1, kvHeads * headDim, cross?.keyWidth ?? width),
    v_proj: fields(2, kvHeads * valueDim, cross?.valueWidth ?? width),
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    ...(from.scaling !== undefined && { scaling: from.scaling }),
    ...(from.is_causal !== undefined && { is_causal: from.is_causal }),
    [from.objective]: tensor(from.objectiveDtype, [...batch, queryLength, heads * valueDim]),
    ...(from.attentionOutput && { outputs: ['gradients', 'attention_output'] }),
  };
}

export const randomProblem: fc.Arbitrary<GradientRequest> = shape.map(build);
