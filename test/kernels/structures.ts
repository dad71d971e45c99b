/**
 * Problems whose rows, keys or gradients have a structure that an error estimate may fall for. Each takes a random
 * problem (low-rank-support.ts) and changes its tensors.
 */
import { Random } from '../../workers/kernels/random.js';
import type { AttentionProblem, Projection } from '../../workers/problem.js';
import type { Dtype } from '../../workers/tensor/dtype.js';
import { encodedTensor } from '../../workers/tensor/encoded.js';
import { narrowTensor, widenEncoded } from '../../workers/tensor/narrow.js';
import type { Tensor, TensorData } from '../../workers/tensor/tensor.js';
import { makeProblem, normal, type Recipe } from './low-rank/support.js';

/** Rows of a tensor (.., rows, width) of one batch item after the other. */
function eachRow({ data, shape }: Tensor, visit: (row: Float32Array, i: number) => void): void {
  const width = shape[shape.length - 1]!;
  for (let i = 0; i < data.length / width; i++) {
    visit(data.subarray(i * width, (i + 1) * width) as Float32Array, i);
  }
}

function scale(x: TensorData, factor: number): void {
  for (let k = 0; k < x.length; k++) x[k]! *= factor;
}

type Change = (problem: AttentionProblem, random: Random) => void;

/** G = X M + noise, as after a residual stream. */
const linearGradient =
  (noise: number, slope: number): Change =>
  ({ inputs, objective }, random) => {
    const width = inputs.query.shape[2]!;
    eachRow(inputs.query, (x) => {
      for (let c = 0; c < width; c++) x[c]! *= Math.exp((-slope * c) / width);
    });
    const columns = objective.tensor.shape[2]!;
    const M = Float64Array.from(
      { length: width * columns },
      () => normal(random) / Math.sqrt(width),
    );
    const x = inputs.query.data;
    eachRow(objective.tensor, (g, i) => {
      for (let c = 0; c < columns; c++) {
        g[c] = noise * normal(random);
        for (let a = 0; a < width; a++) g[c]! += x[i * width + a]! * M[a * columns + c]!;
      }
    });
  };

/** A few channels of all states are large and the same in every row. */
const residualStream =
  (size: number): Change =>
  ({ inputs }, random) => {
    for (const states of new Set([inputs.query, inputs.key, inputs.value])) {
      const channels = [0, 1].map(() => random.integer(states.shape[2]!));
      eachRow(states, (x) => {
        for (const c of channels) x[c] = size + 0.1 * x[c]!;
      });
    }
  };

/** Rows of tiny X whose queries are ordinary by a large column of the weight; they carry the gradient. */
const blindRows: Change = ({ inputs, objective, projections, dims }, random) => {
  const width = inputs.query.shape[2]!;
  const tiny = 1e-3;
  const { weight } = projections.q_proj;
  for (let o = 0; o < weight!.shape[0]!; o++) {
    let square = 0;
    for (let c = 0; c < width; c++) square += weight!.data[o * width + c]! ** 2;
    weight!.data[o * width] = (Math.sqrt(square) * (normal(random) < 0 ? -1 : 1)) / tiny;
  }
  const blind = new Set(
    Array.from({ length: Math.ceil(0.01 * dims.queryLength) }, () =>
      random.integer(dims.queryLength),
    ),
  );
  eachRow(inputs.query, (x, i) => {
    if (blind.has(i % dims.queryLength)) x.fill(0);
    // Column 0 is for the blind rows alone.
    x[0] = blind.has(i % dims.queryLength) ? tiny : 0;
  });
  eachRow(objective.tensor, (g, i) => {
    if (!blind.has(i % dims.queryLength)) scale(g, 1e-2);
  });
};

const largeBias: Change = ({ projections }, random) => {
  for (const { bias } of Object.values(projections)) {
    for (let c = 0; bias && c < bias.data.length; c++) bias.data[c] = normal(random);
  }
};

const scaleRows = (states: Tensor, chosen: (i: number) => boolean, factor: number) =>
  eachRow(states, (x, i) => {
    if (chosen(i)) scale(x, factor);
  });

const heavyKeys: Change = ({ inputs }, random) => {
  const rows = inputs.key.data.length / inputs.key.shape[2]!;
  const heavy = new Set(Array.from({ length: Math.ceil(rows / 200) }, () => random.integer(rows)));
  scaleRows(inputs.key, (i) => heavy.has(i), 6);
};

/** One row in a hundred points where no other does, and weighs as much as all others. */
const hiddenGroup: Change = ({ inputs, objective }, random) => {
  const width = inputs.query.shape[2]!;
  const phase = random.integer(100);
  eachRow(inputs.query, (x, i) => {
    x[width - 1] = i % 100 === phase ? 5 + 0.1 * x[width - 1]! : 0;
  });
  scaleRows(objective.tensor, (i) => i % 100 !== phase, 0.1);
};

const constantColumns: Change = ({ inputs }) => {
  for (const states of new Set([inputs.query, inputs.key])) {
    eachRow(states, (x) => {
      x[0] = 1;
      if (x.length > 2) x[2] = x[1]!;
    });
  }
};

const sparseGradient =
  (every: number): Change =>
  ({ objective }, random) => {
    const phase = random.integer(every);
    scaleRows(objective.tensor, (i) => i % every !== phase, 0);
  };

const oneRowGradient: Change = ({ objective, dims }, random) => {
  const row = random.integer(dims.queryLength);
  scaleRows(objective.tensor, (i) => i % dims.queryLength !== row, 0);
};

/** Key 0 is what most queries look at. */
const attentionSink: Change = ({ inputs, projections, scaling }) => {
  const width = inputs.key.shape[2]!;
  eachRow(inputs.query, (x) => {
    x[0] = 1 + 0.1 * x[0]!;
  });
  const diagonal = (weight: Tensor | null) => weight!.data[0]!;
  const gain = diagonal(projections.q_proj.weight) * diagonal(projections.k_proj.weight) * scaling;
  if (gain > 0) inputs.key.data[0] = 4 / gain;
  for (let c = 1; c < width; c++) inputs.key.data[c]! *= 0.1;
};

/** Queries and keys go along a curve: each row sees its neighbours. */
const band: Change = ({ inputs, dims }) => {
  for (const [states, length] of [
    [inputs.query, dims.queryLength],
    [inputs.key, dims.keyLength],
  ] as const) {
    eachRow(states, (x, i) => {
      const angle = (2 * Math.PI * (i % length)) / length;
      for (let c = 0; c < Math.min(4, x.length); c++) {
        x[c] = 2 * (c % 2 ? Math.sin : Math.cos)((1 + (c >> 1)) * angle);
      }
    });
  }
};

const saturated: Change = ({ projections }, random) => {
  const factor = 20 * 2 ** (3 * random.uniform());
  for (const { weight } of [projections.q_proj, projections.k_proj]) {
    scale(weight!.data, factor);
  }
};

/** The adapters in half precision, and so their gradients. */
const halfPrecision = (dtype: Dtype) => (problem: AttentionProblem) => {
  const narrowed = (tensor: Tensor): Tensor => {
    const { bytes } = narrowTensor(tensor.data, dtype, tensor.shape);
    tensor.data.set(widenEncoded(encodedTensor(dtype, tensor.shape, bytes)));
    return { ...tensor, dtype };
  };
  const cast = ({ adapter, ...rest }: Projection): Projection => ({
    ...rest,
    adapter: adapter && { ...adapter, A: narrowed(adapter.A), B: narrowed(adapter.B) },
  });
  const { q_proj, k_proj, v_proj } = problem.projections;
  return {
    ...problem,
    projections: { q_proj: cast(q_proj), k_proj: cast(k_proj), v_proj: cast(v_proj) },
  };
};

const upstream = { kind: 'grad_output' } as const;

interface Structure {
  readonly recipe?: Partial<Recipe>;
  readonly change?: Change;
  readonly cast?: (problem: AttentionProblem) => AttentionProblem;
}

export const STRUCTURES = {
  none: {},
  'G linear in X': { recipe: { ...upstream, mean: 0 }, change: linearGradient(0, 0) },
  'G linear in X, spectrum': { recipe: { ...upstream, mean: 0 }, change: linearGradient(0, 4) },
  'G linear in X, noise 0.3': { recipe: upstream, change: linearGradient(0.3, 4) },
  'G linear in X, noise 1': { recipe: upstream, change: linearGradient(1, 1) },
  'residual stream': { change: residualStream(20) },
  'massive channels': { change: residualStream(1000) },
  'blind rows': { recipe: upstream, change: blindRows },
  'large biases': { change: largeBias },
  'heavy keys': { change: heavyKeys },
  'hidden group': { recipe: upstream, change: hiddenGroup },
  'constant and duplicate columns': { change: constantColumns },
  'sparse G': { recipe: upstream, change: sparseGradient(50) },
  'one row of G': { recipe: upstream, change: oneRowGradient },
  'attention sink': { change: attentionSink },
  band: { change: band },
  'saturated softmax': { change: saturated },
  'bfloat16 adapters': { cast: halfPrecision('bfloat16') },
  'float16 adapters': { cast: halfPrecision('float16') },
  'cross-attention': { recipe: { keyLength: 1 } },
  'grouped heads': { recipe: { heads: 4, keyValueHeads: 2 } },
} as const satisfies Record<string, Structure>;

export type StructureName = keyof typeof STRUCTURES;
export const STRUCTURE_NAMES = Object.keys(STRUCTURES) as StructureName[];

export function makeStructured(recipe: Recipe, name: StructureName): AttentionProblem {
  const structure: Structure = STRUCTURES[name];
  const wanted = { ...recipe, ...structure.recipe };
  const random = new Random(recipe.seed ^ 0x57a7);
  if (name === 'cross-attention') {
    Object.assign(wanted, { keyLength: Math.ceil(recipe.queryLength * (0.4 + random.uniform())) });
  }
  const problem = makeProblem(wanted);
  structure.change?.(problem, random);
  return structure.cast?.(problem) ?? problem;
}
