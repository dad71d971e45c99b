/** Where the attention stage keeps its matrices in WebAssembly memory. */
import { keysOf, rowsOfKeys, seesAll } from '../../mask.js';
import {
  BLOCK_BYTES,
  type Block,
  KEYS,
  LARGEST_EXPONENT,
  ROWS,
  TILE_FLOATS,
} from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { type Floats, slice } from '../inner/operands.js';
import { PANEL, packedFloats } from '../inner/operations/products.js';
import { type ExactPlan, formsUpstream, stretchesOf } from './plan.js';
import type { PartitionOfHead, Partitions } from './task.js';

/** Floats copied between two looks at the flag that cancels. */
const PIECE = 2 ** 20;

/** Keys [first, first + count) of a head. */
export interface KeyWindow {
  readonly first: number;
  readonly count: number;
}

export interface AttentionMemory {
  /** Whether what all row blocks of the head share was there already. */
  readonly warm: boolean;
  /** One after the other they are in memory; where there is one window only it is there already. */
  readonly windows: readonly KeyWindow[];
  /** Address of the parameters of a row block, and what stays the same in them. */
  readonly block: number;
  readonly fields: Omit<Block, 'rows' | 'firstRow' | 'keys' | 'origin'>;
  /** Q and G of the row block, (ROWS, d) and (ROWS, dv), row-major. */
  readonly qRows: number;
  readonly gRows: number;
  /** B_K and B_V of the head, packed (d, rk) and (dv, rv). */
  readonly BK: number;
  readonly BV: number;
  /** Right products in float64, (ROWS, ps) and (ROWS, pv). */
  readonly rightS: number;
  readonly rightV: number;
  /** For the contraction over rows: right products (ROWS, r), packed, and the result (width, r). */
  readonly rightRows: number;
  readonly rightPacked: number;
  readonly contracted: number;
}

function windowsOf({ keys, window }: ExactPlan): KeyWindow[] {
  return Array.from({ length: Math.ceil(keys / window) }, (_, k) => ({
    first: k * window,
    count: Math.min(window, keys - k * window),
  }));
}

/**
 * Lays out memory for one head. What all row blocks of the head share is copied in only if it is not
 * there yet: the same head's previous task may have run on this thread.
 */
export function prepareMemory(
  task: Partitions,
  wasm: Wasm,
  partition: PartitionOfHead,
  checkpoint: () => void,
): AttentionMemory {
  const { plan, workspace } = task;
  const { headDim: d, valueDim: dv } = plan.problem.dims;
  const { rk, rv, ps, pv, us, uv, ls } = plan.thin;
  const sums = partition.place * plan.partitions + partition.partition;
  const { full } = plan;
  const windows = windowsOf(plan);
  const keys = Math.min(plan.keys, plan.window);
  const headGroup = Math.floor(partition.place / plan.group);
  const owner = `${task.kernel}/${plan.id}/${task.wave}/${partition.place}`;
  const warm = wasm.owner === owner;
  wasm.reset();

  const tiles = Math.ceil(keys / KEYS) * TILE_FLOATS;
  const needV = plan.formOutput || formsUpstream(plan);
  const masked =
    !seesAll(plan.problem) || keysOf(plan.problem, partition.headGroup.batchItem).first > 0;
  const { softcap } = plan.problem;
  const floats = (n: number) => wasm.allocFloats(n);
  /** Rows of all keys where they lie, or room for those of a window. */
  const rows = (x: Float32Array, index: number, width: number) =>
    wasm.elementAt(x, index * plan.keys * width) ?? floats(keys * width);
  const entries = wasm.addressOf ? plan.keys : keys;
  const k = rows(workspace.K, headGroup, d);
  // dS K takes K itself where its rows are whole vectors.
  const wholeK = full.dQ && d === ps;
  const fields = {
    bounded: Number(scoresAreBounded(task, partition)),
    d,
    dv,
    ps,
    pv,
    k,
    bias: 0,
    from: masked ? floats(entries) : 0,
    to: masked ? floats(entries) : 0,
    cap: softcap ? floats(1) : 0,
    slope: softcap ? floats(tiles) : 0,
    v: needV ? rows(workspace.V, headGroup, dv) : 0,
    us: us
      ? rows(workspace.us, partition.place, us)
      : wholeK
        ? k
        : full.dQ
          ? floats(entries * ps)
          : 0,
    uv: uv ? rows(workspace.uv, headGroup, uv) : 0,
    ls: ls ? rows(workspace.ls, sums, ls) : 0,
    lv: pv ? rows(workspace.lv, sums, pv) : 0,
    e: floats(tiles),
    t: formsUpstream(plan) ? floats(tiles) : 0,
    q: floats(packedFloats(d, ROWS)),
    g: floats(packedFloats(dv, ROWS)),
    max: floats(ROWS),
    mean: floats(ROWS),
    sum: wasm.alloc(8 * ROWS),
    dot: wasm.alloc(8 * ROWS),
    o: plan.formOutput ? floats(dv * ROWS) : 0,
    ws: floats(ROWS * ps),
    wv: floats(ROWS * pv),
    rs: floats(ROWS * ps),
    rv: floats(ROWS * pv),
  };
  const memory: AttentionMemory = {
    warm,
    windows,
    fields,
    block: wasm.alloc(BLOCK_BYTES),
    qRows: floats(ROWS * d),
    gRows: floats(ROWS * dv),
    BK: floats(packedFloats(d, rk)),
    BV: floats(packedFloats(dv, rv)),
    rightS: wasm.alloc(8 * ROWS * ps),
    rightV: wasm.alloc(8 * ROWS * pv),
    rightRows: floats(ROWS * Math.max(rk, rv)),
    rightPacked: floats(packedFloats(ROWS, Math.max(rk, rv))),
    contracted: floats(Math.max(d, dv) * Math.max(PANEL, rk, rv)),
  };
  if (warm) {
    wasm.owner = owner;
    return memory;
  }

  if (softcap) wasm.f32(fields.cap, 1)[0] = softcap * Math.LOG2E;
  packAdapter(wasm, plan.problem.projections.k_proj.adapter?.B.data, partition, d, rk, memory.BK);
  packAdapter(wasm, plan.problem.projections.v_proj.adapter?.B.data, partition, dv, rv, memory.BV);
  const all = { first: 0, count: plan.keys };
  if (windows.length > 1 && !wasm.addressOf) return memory;
  loadWindow(task, wasm, memory, partition, all, checkpoint);
  wasm.owner = owner;
  return memory;
}

/** Copies in what the window's keys have in common for all rows: K, V and the right factors. */
export function loadWindow(
  { plan, workspace }: Partitions,
  wasm: Wasm,
  { fields }: AttentionMemory,
  partition: PartitionOfHead,
  { first, count }: KeyWindow,
  checkpoint: () => void,
): void {
  const { us, uv, ps } = plan.thin;
  const { d, dv } = fields;
  const headGroup = Math.floor(partition.place / plan.group);
  const rows = (x: Floats, index: number, width: number) =>
    slice(x, index, plan.keys * width).subarray(first * width, (first + count) * width);
  const copy = (at: number, x: Floats) => {
    for (let from = 0; from < x.length; from += PIECE) {
      checkpoint();
      const piece = x.subarray(from, from + PIECE);
      wasm.f32(at + 4 * from, piece.length).set(piece);
    }
  };
  const K = rows(workspace.K, headGroup, d);
  if (!wasm.addressOf) {
    copy(fields.k, K);
    if (fields.v) copy(fields.v, rows(workspace.V, headGroup, dv));
    copy(fields.us, rows(workspace.us, partition.place, us));
    copy(fields.uv, rows(workspace.uv, headGroup, uv));
  }
  if (plan.full.dQ && fields.us !== fields.k) copyRows(wasm, K, d, fields.us, ps, count);
  if (fields.from === 0) return;
  const [from, to] = [wasm.i32(fields.from, count), wasm.i32(fields.to, count)];
  rowsOfKeys(plan.problem, partition.headGroup.batchItem, first, from, to);
}

/**
 * Cauchy-Schwarz: |S_ij| <= beta log2(e) max |q_i| max |k_j|, and no cap or sink is above the limit. For the
 * whole head, so that a row's results do not depend on the block that it is in.
 */
function scoresAreBounded(
  { plan, workspace }: Partitions,
  { place, headGroup, head }: PartitionOfHead,
): boolean {
  const { queryLength } = plan.problem.dims;
  const keyLength = keysOf(plan.problem, headGroup.batchItem).last;
  const largest = (norms: Float32Array, index: number, length: number, used: number) => {
    const first = index * stretchesOf(length);
    let found = 0;
    for (let k = first; k < first + stretchesOf(used); k++) found = Math.max(found, norms[k]!);
    return found;
  };
  const query = largest(workspace.largestQ, place, queryLength, queryLength);
  const key = largest(workspace.largestK, Math.floor(place / plan.group), plan.keys, keyLength);
  const { scaling, softcap = Infinity, sinks } = plan.problem;
  const largestLogit = Math.min(Math.abs(scaling) * query * key, softcap);
  const sink = Math.abs(sinks?.data[head] ?? 0);
  return Math.LOG2E * Math.max(largestLogit, sink) <= LARGEST_EXPONENT;
}

function packAdapter(
  wasm: Wasm,
  B: Floats | undefined,
  partition: PartitionOfHead,
  width: number,
  rank: number,
  to: number,
): void {
  if (!B) return;
  const mark = wasm.mark();
  wasm.fn.pack(
    width,
    rank,
    wasm.put(slice(B, partition.headGroup.sharedHead, width * rank)),
    rank,
    to,
  );
  wasm.release(mark);
}

/** x (n, width) to rows of `pitch` floats, filled up with zeros. */
export function copyRows(
  wasm: Wasm,
  x: Floats,
  width: number,
  to: number,
  pitch: number,
  n: number,
): void {
  const rows = wasm.f32(to, n * pitch).fill(0);
  for (let i = 0; i < n; i++) rows.set(slice(x, i, width), i * pitch);
}
