/** Makes the typed problem from the checked request: rules between tensors, and defaults. */

import type {
  AttentionKind,
  AttentionLayer,
  AttentionProblem,
  Dimensions,
  Projection,
  ProjectionName,
} from '../../workers/problem.js';
import type { GivenTensor, Tensor } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import {
  hasAttentionStates,
  parseAttentionStates,
  parseKnown,
  parseProjectedFrom,
} from './attention-states.js';
import { Intake, type PendingTensor } from './intake.js';
import { parseMask } from './mask.js';
import { parseProjection } from './projections.js';
import type { GradientRequest } from './request.js';
import { parseRotary } from './rotary.js';
import { formatShape, shapeMismatch } from './shapes.js';
import type { Source } from './source.js';
import { type Inputs, parseInputs, parseObjective, type States } from './states.js';

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

/** Shape of a weight, for a sentence. */
const shapeOf = ({ outFeatures, inFeatures }: Projection) => formatShape([outFeatures, inFeatures]);

/** Width of one head, when the rows of a weight are split evenly. */
function headWidth(name: string, weight: Projection, heads: number, headsName: string): number {
  if (weight.outFeatures % heads === 0) return weight.outFeatures / heads;
  throw invalidHeads(
    `/${name}/weight`,
    `${name}.weight has shape ${shapeOf(weight)}; its rows must be a multiple of ${headsName} = ${heads}.`,
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
      `k_proj.weight has shape ${shapeOf(k_proj)}; it must have num_key_value_heads x d = ` +
        `${keyValueHeads} x ${headDim} = ${keyValueHeads * headDim} rows ` +
        `(d from q_proj.weight ${shapeOf(q_proj)}).`,
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

/** A layer with projections, and its inputs. */
function parseProjected(request: GradientRequest, intake: Intake): Source {
  const inputs = parseInputs(request, intake);
  const project = (name: ProjectionName, states: States) => {
    const given = request[name];
    if (given) return parseProjection(name, given, states, intake);
    throw new Problem('missing-key', `${name} is missing in the body.`, { pointer: '' });
  };
  const projections = {
    q_proj: project('q_proj', inputs.query),
    k_proj: project('k_proj', inputs.key),
    v_proj: project('v_proj', inputs.value),
  };
  const dims = parseDimensions(request, inputs, projections);
  const { query, key, value } = inputs;
  return {
    ...{ kind: inputs.kind, batched: inputs.batch !== null, dims, projections },
    inputs: { query: query.tensor, key: key.tensor, value: value.tensor },
    outputShape: [dims.batch, dims.queryLength, dims.heads * dims.valueDim],
  };
}

/** @throws {Problem} unless there is a number for each head. */
function parseSinks(given: GivenTensor, { heads }: Dimensions, intake: Intake): Tensor {
  if (given.shape.join() === String(heads)) return intake.take('/sinks', given, given.shape);
  throw shapeMismatch('/sinks', given, `one number for each of H = ${heads} heads is needed.`);
}

/** @throws {Problem} with a pointer to the key at fault. */
export function parseLayer(request: GradientRequest): ParsedLayer {
  const intake = new Intake();
  const source = hasAttentionStates(request)
    ? parseAttentionStates(request, intake)
    : parseProjected(request, intake);
  const { kind, batched, dims, inputs, projections } = source;
  const rotary = parseRotary(request, dims, intake);
  const layer: AttentionLayer = {
    ...{ dims, inputs, projections },
    scaling: request.scaling ?? 1 / Math.sqrt(dims.headDim),
    mask: parseMask(request, dims),
    ...(request.softcap !== undefined && { softcap: request.softcap }),
    ...(request.sinks && { sinks: parseSinks(request.sinks, dims, intake) }),
    ...(rotary && { rotary }),
  };
  const objective = parseObjective(request, source, intake);
  const known = parseKnown(request, source, intake);
  const projectedFrom = parseProjectedFrom(request, source, intake);
  const problem = objective && {
    ...{ ...layer, objective, ...(known && { known }), ...(projectedFrom && { projectedFrom }) },
  };
  return { layer, problem, pending: intake.pending, batched, kind };
}

/** @throws {Problem} when there is no objective or nothing to differentiate. */
export function requireProblem(parsed: ParsedLayer, gradientsWanted: boolean): AttentionProblem {
  if (!parsed.problem) {
    throw new Problem('missing-key', 'target or grad_output is missing.', { pointer: '' });
  }
  const { kind, layer } = parsed;
  const adapted = Object.values(layer.projections).some(({ adapter }) => adapter !== null);
  if (gradientsWanted && !adapted && !layer.sinks && kind !== 'attention') {
    throw new Problem(
      'nothing-to-do',
      'None of q_proj, k_proj and v_proj has lora_A and lora_B: there is no gradient to compute.',
      { pointer: '' },
    );
  }
  return parsed.problem;
}
