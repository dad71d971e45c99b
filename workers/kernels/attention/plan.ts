/**
 * How the exact kernel cuts a problem into pieces, and the memory that the pieces share.
 *
 * A *head group* is one key/value head of one batch item with the query heads that use it. Head groups are taken
 * in *waves* whose intermediate matrices fit a budget; all waves use the same workspace. Within a
 * wave the row blocks of each query head are dealt out to *partitions*: partition l takes blocks l, l + partitions,
 * l + 2 partitions, ... and owns one set of partial sums of left products, so that partitions can run at the
 * same time and a causal mask loads them equally.
 *
 * All of it follows from the problem alone, never from the number of threads.
 */
import { randomUUID } from 'node:crypto';
import { visiblePairs } from '../../mask.js';
import type { AttentionLayer, KnownForward, Objective, ProjectionName } from '../../problem.js';
import type { Lease } from '../../tensor/shared-memory.js';
import { KEYS, ROWS } from '../inner/block.js';
import type { GradientOutputs } from '../result.js';

/** Bytes of intermediate matrices that one wave may take (one head group is always allowed). */
const WAVE_BYTES = 96 * 2 ** 20;
/** Head groups of a wave at most: every task of a wave names them. */
const WAVE_HEAD_GROUPS = 256;
/** Bytes of partial left products that partitions may take (one partition a head is always allowed). */
const PARTITION_BYTES = 48 * 2 ** 20;
/** Partitions of a wave: enough for the threads of one machine, and even over 2, 4, 8 of them. */
const WAVE_PARTITIONS = 16;
/** Flops of a partition that is not worth sums of its own: a millisecond. */
const PARTITION_FLOPS = 1e8;

/**
 * Bytes that the attention stage of one worker may take for what has a row for each key; beyond them the
 * keys come in windows.
 */
const WINDOW_BYTES = 512 * 2 ** 20;

/** Tiles between two looks at the flag that cancels: about a millisecond a pass. */
export const TILES_AT_ONCE = 32;

/** Tokens of one contraction with the inputs: its float32 sums are no longer than this. */
export const CONTRACT_TOKENS = 2048;

/** Tokens that are projected together. */
export const PROJECT_TOKENS = 256;

/** Number of stretches of PROJECT_TOKENS tokens. */
export const stretchesOf = (length: number): number => Math.ceil(length / PROJECT_TOKENS);

export interface HeadGroup {
  readonly batchItem: number;
  readonly sharedHead: number;
}

/** A layer, and what is to be differentiated if anything is. */
export type ExactProblem = AttentionLayer & {
  readonly objective: Objective | null;
  readonly known?: KnownForward;
};

/**
 * Which gradients of the projections' outputs are formed at full width: where input gradients are
 * wanted, or rotary positions stand between an adapter and the scores.
 */
interface FullWidth {
  readonly dQ: boolean;
  readonly dK: boolean;
  readonly dV: boolean;
}

/** Sizes of what meets dS and P. */
interface ThinSizes {
  /** Ranks of the adapters; 0: frozen, or taken at full width. */
  readonly rq: number;
  readonly rk: number;
  readonly rv: number;
  /** Widths in whole vectors: rq + rk, or d at full width; rv, or dv at full width. */
  readonly ps: number;
  readonly pv: number;
  /** Widths that the workspace keeps: right factors, left products; 0: not needed. */
  readonly us: number;
  readonly uv: number;
  readonly ls: number;
  /** Width of the right products that are kept, dS K B_Q or dS K. */
  readonly right: number;
}

export interface Workspace {
  /** (head group, group, Lq, d) */
  readonly Q: Float32Array;
  /** (head group, keys, d) and (head group, keys, dv); keys = Lk rounded up to 8, padded with zeros. */
  readonly K: Float32Array;
  readonly V: Float32Array;
  /** Largest |q_i| (head group, group, stretch) and |k_j| (head group, stretch) of each stretch of PROJECT_TOKENS tokens. */
  readonly largestQ: Float32Array;
  readonly largestK: Float32Array;
  /** X^Q A_Q^T (head group, Lq, rq) */
  readonly lowQ: Float32Array;
  /** Right factors: [K B_Q | X^K A_K^T] (head group, group, keys, ps) and X^V A_V^T (head group, keys, pv). */
  readonly us: Float32Array;
  readonly uv: Float32Array;
  /** dS K B_Q (head group, group, Lq, rq), or dS K (head group, group, Lq, d) */
  readonly rightQ: Float32Array;
  /**
   * |G_i|; what a row carries of dS, |dS_i [K B_Q | X^K A_K^T]| or |dS_i K|; that times |q_i|; |G.O| |q_i|, before it cancels
   * in dS; and what it adds to the gradient of the sink, |P_sink G.O| (head group, group, Lq)
   */
  readonly normG: Float32Array;
  readonly normS: Float32Array;
  readonly normQS: Float32Array;
  readonly normDQ: Float32Array;
  readonly normSink: Float32Array;
  /** dS^T [Q B_K | X^Q A_Q^T] or dS^T Q (head group, group, partition, keys, ps); P^T G B_V or P^T G (.., pv). */
  readonly ls: Float32Array;
  readonly lv: Float32Array;
  /** Sums over a partition of Q^T (dS X^K A_K^T) (head group, group, partition, d, rk) and G^T (P X^V A_V^T). */
  readonly outK: Float64Array;
  readonly outV: Float64Array;
  /** Sums over a partition of the gradient of its head's sink (head group, group, partition). */
  readonly sinks: Float64Array;
}

export interface ExactPlan {
  /** Names the job in the memory of worker threads. */
  readonly id: string;
  readonly problem: ExactProblem;
  /** Query heads of a head group. */
  readonly group: number;
  readonly full: FullWidth;
  readonly thin: ThinSizes;
  /** Lk rounded up to 8. */
  readonly keys: number;
  /** Keys that are in WebAssembly memory at once: all of them, unless there are very many. */
  readonly window: number;
  readonly partitions: number;
  /** Row blocks of a query head, and the flops of one over the keys that it sees, on average. */
  readonly blocks: number;
  readonly blockFlops: number;
  /** Whether O is needed: G = O - Y, or the caller wants it. */
  readonly formOutput: boolean;
  /** Head groups of a wave at most. */
  readonly perWave: number;
}

/** Every task has the plan with it: nothing in it grows with the number of batch items. */
export const wavesOf = ({ problem: { dims }, perWave }: ExactPlan): number =>
  Math.ceil((dims.batch * dims.keyValueHeads) / perWave);

export function headGroupsOf({ problem: { dims }, perWave }: ExactPlan, wave: number): HeadGroup[] {
  const { batch, keyValueHeads } = dims;
  const first = wave * perWave;
  const last = Math.min(first + perWave, batch * keyValueHeads);
  return Array.from({ length: last - first }, (_, k) => ({
    batchItem: Math.floor((first + k) / keyValueHeads),
    sharedHead: (first + k) % keyValueHeads,
  }));
}

/** Whether dP = G V^T and G.O are needed: for dS, or for the gradient of sinks. */
export const formsUpstream = ({ thin, problem }: ExactPlan): boolean =>
  thin.ps > 0 || Boolean(problem.sinks && problem.objective);

export const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;

/** Rank of an adapter whose gradient is wanted; 0: there is none. */
export const rankOf = (problem: ExactProblem, name: ProjectionName): number =>
  problem.objective ? (problem.projections[name].adapter?.rank ?? 0) : 0;

function fullWidth(problem: ExactProblem, inputGradients: boolean): FullWidth {
  const rotated = (name: ProjectionName) => Boolean(problem.rotary) && rankOf(problem, name) > 0;
  return {
    dQ: inputGradients || rotated('q_proj'),
    dK: inputGradients || rotated('k_proj'),
    dV: inputGradients,
  };
}

function thinSizes(problem: ExactProblem, full: FullWidth): ThinSizes {
  const { headDim, valueDim } = problem.dims;
  const [rq, rk, rv] = [
    full.dQ ? 0 : rankOf(problem, 'q_proj'),
    full.dK ? 0 : rankOf(problem, 'k_proj'),
    full.dV ? 0 : rankOf(problem, 'v_proj'),
  ];
  const ps = roundUp(full.dQ || full.dK ? headDim : rq + rk, 8);
  const pv = roundUp(full.dV ? valueDim : rv, 8);
  return {
    ...{ rq, rk, rv, ps, pv },
    us: rq + rk ? ps : 0,
    uv: rv ? pv : 0,
    ls: rq + rk > 0 || full.dK ? ps : 0,
    right: full.dQ ? headDim : rq,
  };
}

/** Whole stretches of tiles, so that sums do not depend on the windows. */
function windowOf({ headDim, valueDim }: ExactProblem['dims'], thin: ThinSizes): number {
  const { us, uv, ls, ps, pv } = thin;
  const floats = headDim + valueDim + Math.max(us, ps) + uv + Math.max(ls, ps) + pv + 2 * ROWS;
  const stretch = KEYS * TILES_AT_ONCE;
  return stretch * Math.max(1, Math.floor(WINDOW_BYTES / (4 * floats * stretch)));
}

function flopsOfBlock(problem: ExactProblem, { ps, pv }: ThinSizes, formOutput: boolean): number {
  const { batch, queryLength, headDim, valueDim } = problem.dims;
  const pairs = Array.from({ length: batch }, (_, item) => visiblePairs(problem, item));
  const seen = pairs.reduce((a, b) => a + b, 0) / (batch * queryLength);
  const wide = headDim + (ps ? valueDim : 0) + (formOutput ? valueDim : 0);
  return 2 * ROWS * (seen + KEYS) * (wide + 2 * (ps + pv) + 8);
}

export function makePlan(problem: ExactProblem, outputs: GradientOutputs): ExactPlan {
  const { batch, queryLength, keyLength, heads, keyValueHeads, headDim, valueDim } = problem.dims;
  const group = heads / keyValueHeads;
  const full = fullWidth(problem, outputs.inputGradients !== undefined);
  const thin = thinSizes(problem, full);
  const keys = roundUp(keyLength, 8);
  const blocks = Math.ceil(queryLength / ROWS);

  const headGroupBytes =
    4 *
    (group * queryLength * (headDim + thin.right) +
      queryLength * thin.rq +
      keys * (headDim + valueDim + group * thin.us + thin.uv));
  const partitionBytes = 4 * group * keys * (thin.ls + thin.pv);
  const fitting = Math.floor(WAVE_BYTES / (headGroupBytes + partitionBytes));
  const perWave = Math.max(1, Math.min(WAVE_HEAD_GROUPS, fitting, batch * keyValueHeads));
  const formOutput =
    outputs.attentionOutput || (problem.objective?.kind === 'target' && !problem.known?.output);
  const blockFlops = flopsOfBlock(problem, thin, formOutput);
  const worthwhile = Math.ceil((blocks * blockFlops) / PARTITION_FLOPS);
  const wanted = Math.min(worthwhile, Math.ceil(WAVE_PARTITIONS / (perWave * group)));
  const affordable = Math.floor(PARTITION_BYTES / (perWave * partitionBytes || 1));
  return {
    id: randomUUID(),
    problem,
    group,
    full,
    thin,
    keys,
    window: windowOf(problem.dims, thin),
    partitions: Math.max(1, Math.min(wanted, affordable, blocks)),
    blocks,
    blockFlops,
    formOutput,
    perWave,
  };
}

export function makeWorkspace(plan: ExactPlan, memory: Lease): Workspace {
  const { queryLength, keyLength, headDim, valueDim } = plan.problem.dims;
  const { rq, rk, rv, pv, us, uv, ls, right } = plan.thin;
  const floats = (n: number) => memory.float32(n);
  const doubles = (n: number) => memory.float64(n);
  // Rows of keys that are padding are read, to be multiplied by a probability of 0.
  const padded = plan.keys > keyLength || plan.problem.mask.keys !== undefined;
  const rows = (n: number) => (padded ? floats(n).fill(0) : floats(n));
  const headGroups = plan.perWave;
  const heads = headGroups * plan.group;
  const partitioned = heads * plan.partitions;
  return {
    Q: floats(heads * queryLength * headDim),
    K: rows(headGroups * plan.keys * headDim),
    V: rows(headGroups * plan.keys * valueDim),
    largestQ: floats(heads * stretchesOf(queryLength)).fill(0),
    largestK: floats(headGroups * stretchesOf(plan.keys)).fill(0),
    lowQ: floats(headGroups * queryLength * rq),
    us: rows(heads * plan.keys * us),
    uv: rows(headGroups * plan.keys * uv),
    rightQ: floats(heads * queryLength * right),
    normG: floats(heads * queryLength).fill(0),
    normS: floats(heads * queryLength).fill(0),
    normQS: floats(heads * queryLength).fill(0),
    normDQ: floats(heads * queryLength).fill(0),
    normSink: floats(heads * queryLength).fill(0),
    ls: floats(partitioned * plan.keys * ls),
    lv: floats(partitioned * plan.keys * pv),
    outK: doubles(partitioned * headDim * rk),
    outV: doubles(partitioned * valueDim * rv),
    sinks: doubles(partitioned),
  };
}
