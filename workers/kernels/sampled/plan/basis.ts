/** The coordinates in which few numbers make most of a logit, from some rows of a head. */
import type { Checkpoint } from '../../../job.js';
import { shared } from '../../../tensor/shared-memory.js';
import type { ExactPlan, Workspace } from '../../attention/plan.js';
import type { PartitionOfHead } from '../../attention/task.js';
import { keyInputs } from '../../estimate/row-of-head.js';
import type { Wasm } from '../../inner/instance.js';
import { slice } from '../../inner/operands.js';
import { Arithmetic } from '../../low-rank/arithmetic/arithmetic.js';
import { balance } from '../../low-rank/features/balance.js';
import { Random } from '../../random.js';
import type { Basis } from './plan.js';

/** Rows and keys of a head whose covariances are balanced. */
const ROWS_BALANCED = 512;

interface BasisOf {
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly head: Omit<PartitionOfHead, 'partition'>;
  readonly seed: number;
}

/**
 * @returns the basis, and the deviation of logits, over pairs of a query and a key, that is left out by the first c coordinates.
 * @throws {NumericError} when the rows are too large for the algebra.
 */
export function basisOf(
  { plan, workspace, head, seed }: BasisOf,
  wasm: Wasm,
  checkpoint: Checkpoint,
): { readonly basis: Basis; readonly leftOut: (c: number) => number } {
  const { problem, group } = plan;
  const { queryLength, headDim: d } = problem.dims;
  const random = new Random(seed);
  const some = (rows: Float32Array, n: number) => {
    const index = random.sample(n, ROWS_BALANCED);
    const out = new Float32Array(index.length * d);
    index.forEach((row, i) => {
      out.set(slice(rows, row, d), i * d);
    });
    return out;
  };
  const { keys } = keyInputs(problem, head.headGroup.batchItem);
  const Q = some(slice(workspace.Q, head.place, queryLength * d), queryLength);
  const headGroup = Math.floor(head.place / group);
  const K = some(slice(workspace.K, headGroup, plan.keys * d), keys);
  const beta = problem.scaling;
  const { transformQ, transformK, sigma, centreQ, centreK } = balance(
    new Arithmetic(wasm, checkpoint),
    ...([Q, K, d, beta] as const),
  );
  const factor = Math.LOG2E * beta;
  // Coordinates of queries and of keys are of the same size.
  const sizes = sigma.map((x) => Math.sqrt(Math.LOG2E * x));
  const query = map(transformQ, sizes, centreQ, centreK, factor);
  const key = map(transformK, sizes, centreK, centreQ, factor);
  // beta q.k = beta (q - cq).(k - ck) + beta q.ck + beta k.cq - beta cq.ck
  const both = centreQ.reduce((sum, x, r) => sum + x * centreK[r]!, 0);
  query.shift[d] = -factor * both;
  const basis = shared({
    queryMap: query.matrix,
    queryShift: query.shift,
    keyMap: key.matrix,
    keyShift: key.shift,
  });
  return { basis, leftOut: (c) => Math.hypot(...sigma.subarray(c)) };
}

/** [T diag(factors) | share other], and minus centre times its first columns. */
function map(
  transform: Float64Array,
  factors: Float64Array,
  centre: Float64Array,
  other: Float64Array,
  share: number,
) {
  const d = factors.length;
  const columns = d + 1;
  const matrix = new Float64Array(d * columns);
  const shift = new Float64Array(columns);
  for (let r = 0; r < d; r++) {
    for (let a = 0; a < d; a++) {
      const entry = factors[a]! * transform[r * d + a]!;
      matrix[r * columns + a] = entry;
      shift[a]! -= centre[r]! * entry;
    }
    matrix[r * columns + d] = share * other[r]!;
  }
  return { matrix, shift };
}
