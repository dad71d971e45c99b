/** Weights and adapters of q_proj, k_proj and v_proj: from the request to the typed problem. */

import type { Adapter, Projection, ProjectionName } from '../../workers/problem.js';
import { Problem } from '../errors.js';
import type { Intake } from './intake.js';
import type { ProjectionRequest } from './request.js';
import { formatShape, requireDimensions, requireSize } from './shapes.js';

function parseAdapter(
  name: ProjectionName,
  request: ProjectionRequest,
  outFeatures: number,
  inFeatures: number,
  intake: Intake,
): Adapter | null {
  const { lora_A, lora_B, lora_alpha, use_rslora } = request;
  const [pointerA, pointerB] = [`/${name}/lora_A`, `/${name}/lora_B`];
  if (!lora_A && !lora_B) {
    for (const option of ['lora_alpha', 'use_rslora'] as const) {
      if (request[option] === undefined) continue;
      throw new Problem(
        'missing-key',
        `${name}.${option} is given, but neither lora_A nor lora_B: a frozen projection has no scaling.`,
        { pointer: `/${name}/${option}` },
      );
    }
    return null;
  }
  if (!lora_A || !lora_B) {
    const [present, absent] = lora_A ? ['lora_A', 'lora_B'] : ['lora_B', 'lora_A'];
    throw new Problem(
      'missing-key',
      `${name}.${present} is given without ${name}.${absent}; an adapter needs both, a frozen projection neither.`,
      { pointer: `/${name}` },
    );
  }
  requireDimensions(pointerA, lora_A, [2], '(r, d_in)');
  requireSize(pointerA, lora_A, 1, inFeatures, `d_in of ${name}.weight`);
  requireDimensions(pointerB, lora_B, [2], '(out, r)');
  requireSize(pointerB, lora_B, 0, outFeatures, `rows of ${name}.weight`);
  const rank = lora_A.shape[0];
  requireSize(pointerB, lora_B, 1, rank, `r, rows of ${name}.lora_A ${formatShape(lora_A.shape)}`);
  return {
    A: intake.take(pointerA, lora_A, lora_A.shape),
    B: intake.take(pointerB, lora_B, lora_B.shape),
    rank,
    scaling: (lora_alpha ?? rank) / (use_rslora ? Math.sqrt(rank) : rank),
  };
}

/**
 * @param states the tensor this projection is applied to: its pointer's name and d_in.
 * @throws {Problem} naming the tensors, their shapes and the rule between them.
 */
export function parseProjection(
  name: ProjectionName,
  request: ProjectionRequest,
  states: { readonly name: string; readonly width: number },
  intake: Intake,
): Projection {
  const { weight, bias } = request;
  const pointer = `/${name}/weight`;
  requireDimensions(pointer, weight, [2], '(out, d_in)');
  requireSize(pointer, weight, 1, states.width, `last dimension of ${states.name}`);
  const [outFeatures, inFeatures] = weight.shape;
  if (bias) {
    requireDimensions(`/${name}/bias`, bias, [1], '(out,)');
    requireSize(`/${name}/bias`, bias, 0, outFeatures, `rows of ${name}.weight`);
  }
  return {
    weight: intake.take(pointer, weight, weight.shape),
    bias: bias ? intake.take(`/${name}/bias`, bias, bias.shape) : null,
    adapter: parseAdapter(name, request, outFeatures, inFeatures, intake),
    outFeatures,
    inFeatures,
  };
}
