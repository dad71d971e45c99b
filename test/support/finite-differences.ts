/** Central differences of the plain loss: gradients that owe nothing to any formula for gradients. */
import { PROJECTIONS, type ProjectionName, type StatesName } from './fixtures.js';
import { type PlainProblem, plainLoss } from './plain-loss.js';

/** Balances the truncation error, step^2, against the rounding error, 2^-53 / step. */
const STEP = 6e-6;

function differences(problem: PlainProblem, parameters: Float64Array): Float64Array {
  return parameters.map((value, i) => {
    parameters[i] = value + STEP;
    const above = plainLoss(problem);
    parameters[i] = value - STEP;
    const below = plainLoss(problem);
    parameters[i] = value;
    return (above - below) / (2 * STEP);
  });
}

export function finiteDifferences(
  problem: PlainProblem,
): Map<ProjectionName, { lora_A: Float64Array; lora_B: Float64Array }> {
  const gradients = new Map();
  for (const name of PROJECTIONS) {
    const { lora_A, lora_B } = problem.projections[name];
    if (lora_A === undefined || lora_B === undefined) continue;
    gradients.set(name, {
      lora_A: differences(problem, lora_A),
      lora_B: differences(problem, lora_B),
    });
  }
  return gradients;
}

/** Of the loss by an input: hidden_states stands for the inputs of all three projections. */
export function inputDifferences(problem: PlainProblem, name: StatesName): Float64Array {
  const { states } = problem;
  if (name === 'hidden_states') {
    states.k_proj = states.q_proj;
    states.v_proj = states.q_proj;
    return differences(problem, states.q_proj);
  }
  const role = ({ query_states: 'q_proj', key_states: 'k_proj', value_states: 'v_proj' } as const)[
    name
  ];
  return differences(problem, states[role]);
}
