/** From the checked request to the typed problem: the rules between tensors, and the defaults. */

import type {
  AttentionKind,
  AttentionLayer,
  AttentionProblem,
  Dimensions,
  Projection,
} from '../../workers/problem.js';
import { Problem } from '../errors.js';
import { Intake, type PendingTensor } from './intake.js';
import { parseMask } from './mask.js';
import { parseProjection } from './projections.js';
import type { GradientRequest } from './request.js';
import { parseRotary } from './rotary.js';
import { formatShape } from './shapes.js';
import { type Inputs, parseInputs, parseObjective } from './states.js';

export interface ParsedLayer {
  readonly layer: AttentionLayer;
  /** null: neither target nor grad_output was given. */
  readonly problem: AttentionProblem | null;
  /** The tensors hold nothing that means anything until these are decoded. */
  readonly pending: readonly PendingTensor[];
  /** Whether the client's tensors carry a batch dimension. */
  readonly batched: boolean;
  readonly kind: AttentionKind;
}

function invalidHeads(pointer: string, sentence: string): Problem {
  return new Problem('shape-mismatch', sentence, { pointer });
}

/** Width of one head, when the rows of a weight are split evenly. */
function headWidth(name: string, weight: Projection, heads: number, headsName: string): number {
  const { shape } = weight.weight;
  if (weight.outFeatures % heads === 0) return weight.outFeatures / heads;
  throw invalidHeads(
    `/${name}/weight`,
    `${name}.weight has shape ${formatShape(shape)}; its rows must be a multiple of ${headsName} = ${heads}.`,
  );
}

function parseDimensions(
  request: GradientRequest,
  inputs: Inputs,
  projections: AttentionLayer['projections'],
): Dimensions {
  const heads = request.num_attention_heads ?? 1;
  const keyValueHeads = request.num_key_value_heads ?? heads;
  if (heads % keyValueHeads !== 0) {
    throw invalidHeads(
      '/num_key_value_heads',
      `num_key_value_heads = ${keyValueHeads} must divide num_attention_heads = ${heads}.`,
    );
  }
  const { q_proj, k_proj, v_proj } = projections;
  const headDim = headWidth('q_proj', q_proj, heads, 'num_attention_heads');
  if (k_proj.outFeatures !== keyValueHeads * headDim) {
    throw invalidHeads(
      '/k_proj/weight',
      `k_proj.weight has shape ${formatShape(k_proj.weight.shape)}; it must have num_key_value_heads x d = ` +
        `${keyValueHeads} x ${headDim} = ${keyValueHeads * headDim} rows ` +
        `(d from q_proj.weight ${formatShape(q_proj.weight.shape)}).`,
    );
  }
  const valueDim = headWidth('v_proj', v_proj, keyValueHeads, 'num_key_value_heads');
  return {
    batch: inputs.batch ?? 1,
    queryLength: inputs.query.length,
    keyLength: inputs.key.length,
    heads,
    keyValueHeads,
    headDim,
    valueDim,
  };
}

/** @throws {Problem} with a pointer to the key at fault. */
export function parseLayer(request: GradientRequest): ParsedLayer {
  const intake = new Intake();
  const inputs = parseInputs(request, intake);
  const projections = {
    q_proj: parseProjection('q_proj', request.q_proj, inputs.query, intake),
    k_proj: parseProjection('k_proj', request.k_proj, inputs.key, intake),
    v_proj: parseProjection('v_proj', request.v_proj, inputs.value, intake),
  };
  const dims = parseDimensions(request, inputs, projections);
  const rotary = parseRotary(request, dims, intake);
  const layer: AttentionLayer = {
    dims,
    inputs: {
      query: inputs.query.tensor,
      key: inputs.key.tensor,
      value: inputs.value.tensor,
    },
    projections,
    scaling: request.scaling ?? 1 / Math.sqrt(dims.headDim),
    mask: parseMask(request, dims),
    ...(rotary && { rotary }),
  };
  const objective = parseObjective(request, inputs, dims, intake);
  return {
    layer,
    problem: objective && { ...layer, objective },
    pending: intake.pending,
    batched: inputs.batch !== null,
    kind: inputs.kind,
  };
}

/** @throws {Problem} when there is no objective or nothing to differentiate. */
export function requireProblem(parsed: ParsedLayer, gradientsWanted: boolean): AttentionProblem {
  if (!parsed.problem) {
    throw new Problem('missing-key', 'target or grad_output is missing.', { pointer: '' });
  }
  const adapted = Object.values(parsed.layer.projections).some(({ adapter }) => adapter !== null);
  if (gradientsWanted && !adapted) {
    throw new Problem(
      'nothing-to-do',
      'None of q_proj, k_proj and v_proj has lora_A and lora_B: there is no gradient to compute.',
      { pointer: '' },
    );
  }
  return parsed.problem;
}
