/** Inputs of the layer and the objective: which tensors were given, and their common B and L. */

import {
  type AttentionKind,
  type Objective,
  STATES,
  type StatesName,
} from '../../workers/problem.js';
import type { GivenTensor, Tensor } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import type { Intake } from './intake.js';
import type { GradientRequest } from './request.js';
import { formatShape, requireDimensions, requireSize, shapeMismatch } from './shapes.js';
import type { Source } from './source.js';

export interface States {
  readonly name: StatesName;
  readonly width: number;
  readonly length: number;
  readonly tensor: Tensor;
}

export interface Inputs {
  /** null: the tensors came without a batch dimension, and the answer goes without one. */
  readonly batch: number | null;
  readonly kind: AttentionKind;
  readonly query: States;
  readonly key: States;
  readonly value: States;
}

const CROSS = Object.values(STATES.cross);

/** @throws {Problem} unless hidden_states, or all three of the others, are given. */
function givenKind(request: GradientRequest): 'self' | 'cross' {
  const cross = CROSS.filter((key) => request[key] !== undefined);
  if (request.hidden_states) {
    if (cross.length === 0) return 'self';
    throw new Problem(
      'conflicting-keys',
      `hidden_states (self-attention) and ${cross[0]} (cross-attention) exclude each other.`,
      { pointer: `/${cross[0]}` },
    );
  }
  const missing = CROSS.find((key) => request[key] === undefined);
  if (!missing) return 'cross';
  throw new Problem(
    'missing-key',
    cross.length === 0
      ? 'hidden_states is missing; or give query_states, key_states and value_states, or query, key and value.'
      : `${missing} is missing; query_states, key_states and value_states go together.`,
    { pointer: '' },
  );
}

/** Leading sizes must agree between `tensor` and the tensor that was read first. */
function requireSameBatch(
  pointer: string,
  tensor: GivenTensor,
  other: { readonly name: string; readonly shape: readonly number[] },
): void {
  const [batch, otherBatch] = [tensor.shape, other.shape].map((shape) => shape.slice(0, -2));
  if (batch.join() === otherBatch.join()) return;
  throw shapeMismatch(
    pointer,
    tensor,
    `its batch must be that of ${other.name} ${formatShape(other.shape)}.`,
  );
}

export function parseInputs(request: GradientRequest, intake: Intake): Inputs {
  const kind = givenKind(request);
  const keys = Object.values(STATES[kind]);
  const first = { name: keys[0], shape: (request[keys[0]] as GivenTensor).shape };
  const read = new Map<StatesName, States>();
  for (const name of new Set(keys)) {
    const pointer = `/${name}`;
    const given = request[name] as GivenTensor;
    requireDimensions(pointer, given, [2, 3], '(L, d_in) or (B, L, d_in)');
    requireSameBatch(pointer, given, first);
    const [length, width] = given.shape.slice(-2);
    if (name === 'value_states') {
      const keyLength = read.get('key_states')?.length as number;
      requireSize(pointer, given, given.shape.length - 2, keyLength, 'Lk, rows of key_states');
    }
    const shape = given.shape.length === 3 ? given.shape : [1, ...given.shape];
    read.set(name, { name, width, length, tensor: intake.take(pointer, given, shape) });
  }
  const [query, key, value] = keys.map((name) => read.get(name) as States);
  return { batch: first.shape.length === 3 ? first.shape[0] : null, kind, query, key, value };
}

/**
 * @throws {Problem} unless exactly one of target and grad_output is given, in the output's shape. That of
 * attention states may come with the heads side by side.
 */
export function parseObjective(
  request: GradientRequest,
  { dims, batched, outputShape }: Source,
  intake: Intake,
): Objective | null {
  if (request.target && request.grad_output) {
    throw new Problem('conflicting-keys', 'target and grad_output exclude each other.', {
      pointer: '/grad_output',
    });
  }
  const kind = request.target ? 'target' : 'grad_output';
  const given = request[kind];
  if (!given) return null;
  const { batch, queryLength, heads, valueDim } = dims;
  const without = (shape: readonly number[]) => (batched ? shape : shape.slice(1));
  const expected = [outputShape, [batch, queryLength, heads * valueDim]].map(without);
  if (!expected.some((shape) => shape.join() === given.shape.join())) {
    throw shapeMismatch(
      `/${kind}`,
      given,
      `the attention output has shape ${formatShape(expected[0])}: the rows of the queries by ` +
        `H x dv = ${heads} x ${valueDim}.`,
    );
  }
  return { kind, tensor: intake.take(`/${kind}`, given, outputShape) };
}
