/** Attention states: queries, keys and values that the client has projected, normalised and rotated itself. */

import type { Dimensions, KnownForward, ProjectedFrom, Projection } from '../../workers/problem.js';
import type { GivenTensor, Tensor } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import type { Intake } from './intake.js';
import type { GradientRequest } from './request.js';
import { parseTables } from './rotary.js';
import { formatShape, requireDimensions, requireSize, shapeMismatch } from './shapes.js';
import type { Source } from './source.js';

const NAMES = ['query', 'key', 'value'] as const;
/** Keys of a layer with projections. */
const OTHERS = [
  ...['hidden_states', 'query_states', 'key_states', 'value_states', 'q_proj', 'k_proj', 'v_proj'],
  ...['num_attention_heads', 'num_key_value_heads', 'cos', 'sin'],
] as const;

export function hasAttentionStates(request: GradientRequest): boolean {
  return NAMES.some((name) => request[name] !== undefined);
}

const identity = (width: number): Projection => ({
  ...{ weight: null, bias: null, adapter: null, outFeatures: width, inFeatures: width },
});

/** @throws {Problem} unless the three are given, without what belongs to projections, and fit each other. */
export function parseAttentionStates(request: GradientRequest, intake: Intake): Source {
  const missing = NAMES.find((name) => request[name] === undefined);
  if (missing) {
    throw new Problem('missing-key', `${missing} is missing; query, key and value go together.`, {
      pointer: '',
    });
  }
  const other = OTHERS.find((name) => request[name as keyof GradientRequest] !== undefined);
  if (other) {
    throw new Problem(
      'conflicting-keys',
      `query, key and value are projected and rotated already; they and ${other} exclude each other.`,
      { pointer: `/${other}` },
    );
  }
  if (request.outputs?.includes('input_gradients')) {
    throw new Problem(
      'conflicting-keys',
      'The gradients of query, key and value are the gradients of the answer; they have no input_gradients.',
      { pointer: '/outputs' },
    );
  }
  const [query, key, value] = NAMES.map((name) => request[name] as GivenTensor);
  NAMES.forEach((name) => {
    requireDimensions(`/${name}`, request[name]!, [3, 4], '(L, H, d) or (B, L, H, d)');
  });
  const batch = query.shape.slice(0, -3);
  for (const [name, tensor] of [
    ['key', key],
    ['value', value],
  ] as const) {
    if (tensor.shape.slice(0, -3).join() === batch.join()) continue;
    const rule = `its batch must be that of query ${formatShape(query.shape)}.`;
    throw shapeMismatch(`/${name}`, tensor, rule);
  }
  const [queryLength, heads, headDim] = query.shape.slice(-3);
  const [keyLength, keyValueHeads] = key.shape.slice(-3);
  const axis = batch.length;
  const ofKey = formatShape(key.shape);
  requireSize('/key', key, axis + 2, headDim, `d of query ${formatShape(query.shape)}`);
  requireSize('/value', value, axis, keyLength, `Lk of key ${ofKey}`);
  requireSize('/value', value, axis + 1, keyValueHeads, `Hkv of key ${ofKey}`);
  if (heads % keyValueHeads !== 0) {
    throw shapeMismatch(
      '/key',
      key,
      `its Hkv = ${keyValueHeads} must divide H = ${heads} of query ${formatShape(query.shape)}.`,
    );
  }
  const valueDim = value.shape[axis + 2];
  const dims: Dimensions = {
    ...{ batch: batch[0] ?? 1, queryLength, keyLength, heads, keyValueHeads, headDim, valueDim },
  };
  const take = (name: (typeof NAMES)[number]): Tensor => {
    const given = request[name]!;
    return intake.take(`/${name}`, given, axis === 1 ? given.shape : [1, ...given.shape]);
  };
  return {
    kind: 'attention',
    batched: axis === 1,
    dims,
    inputs: { query: take('query'), key: take('key'), value: take('value') },
    projections: {
      q_proj: identity(heads * headDim),
      k_proj: identity(keyValueHeads * headDim),
      v_proj: identity(keyValueHeads * valueDim),
    },
    outputShape: [dims.batch, queryLength, heads, valueDim],
  };
}

/** @throws {Problem} unless what the client knows of its forward pass goes with attention states, in its shape. */
export function parseKnown(
  request: GradientRequest,
  { kind, batched, dims, outputShape }: Source,
  intake: Intake,
): KnownForward | undefined {
  const { batch, heads, queryLength } = dims;
  const shapes = { log_sum_exp: [batch, heads, queryLength], attention_output: outputShape };
  const take = (name: keyof typeof shapes): Tensor | undefined => {
    const given = request[name];
    if (!given) return undefined;
    if (kind !== 'attention') {
      throw new Problem('conflicting-keys', `${name} goes with query, key and value.`, {
        pointer: `/${name}`,
      });
    }
    const expected = batched ? shapes[name] : shapes[name].slice(1);
    if (given.shape.join() === expected.join()) {
      return intake.take(`/${name}`, given, shapes[name]);
    }
    throw shapeMismatch(`/${name}`, given, `it must be ${formatShape(expected)}.`);
  };
  const [logSumExp, output] = [take('log_sum_exp'), take('attention_output')];
  if (!logSumExp && !output) return undefined;
  return { ...(logSumExp && { logSumExp }), ...(output && { output }) };
}

/** @throws {Problem} unless the rows that attention states were projected from go with these. */
export function parseProjectedFrom(
  { inputs }: GradientRequest,
  { kind, batched, dims }: Source,
  intake: Intake,
): ProjectedFrom | undefined {
  if (!inputs) return undefined;
  if (kind !== 'attention') {
    throw new Problem('conflicting-keys', 'inputs goes with query, key and value.', {
      pointer: '/inputs',
    });
  }
  const other = NAMES.find((name) => inputs[name]);
  if (inputs.hidden_states && other) {
    throw new Problem(
      'conflicting-keys',
      `hidden_states entered all three projections; it and ${other} exclude each other.`,
      { pointer: `/inputs/${other}` },
    );
  }
  const take = (name: 'hidden_states' | (typeof NAMES)[number], length: number) => {
    const given = inputs[name];
    if (!given) return undefined;
    const width = given.shape.at(-1) ?? 0;
    const shape = [dims.batch, length, width];
    const expected = batched ? shape : shape.slice(1);
    if (width > 0 && given.shape.join() === expected.join()) {
      return intake.take(`/inputs/${name}`, given, shape);
    }
    const needed = [...expected.slice(0, -1), 'd_in'].join(', ');
    throw shapeMismatch(
      `/inputs/${name}`,
      given,
      `it must be (${needed}), a row for each of ${name === 'hidden_states' ? 'query' : name}.`,
    );
  };
  const { queryLength, keyLength } = dims;
  const all = take('hidden_states', queryLength);
  if (all && keyLength !== queryLength) {
    throw shapeMismatch(
      '/inputs/hidden_states',
      inputs.hidden_states!,
      'its rows entered all three projections: query and key have as many.',
    );
  }
  const taken = Object.fromEntries(
    NAMES.flatMap((name) => {
      const tensor = all ?? take(name, name === 'query' ? queryLength : keyLength);
      return tensor ? [[name, tensor]] : [];
    }),
  );
  const rotary = parseTables(inputs, '/inputs', dims, intake);
  return { ...taken, ...(rotary && { rotary }) };
}
