/** A model of many nodes on one store, from what was measured on one machine: transfer, compute, join. */

export interface Measured {
  /** Bytes that a node puts and gets in a second of processor time, digests included. */
  readonly put: number;
  readonly get: number;
  /** Seconds of the API node for a part, without its computation. */
  readonly message: number;
  /** Flops a second of one thread of the exact kernel. */
  readonly rate: number;
}

/** An attention layer, its adapters and the machines. */
export interface Assumed {
  readonly length: number;
  readonly heads: number;
  readonly headDim: number;
  readonly inFeatures: number;
  readonly rank: number;
  /** Of a worker. */
  readonly threads: number;
  /** Bytes a second through the network of the store, each way. */
  readonly network: number;
}

export interface Modelled {
  readonly nodes: number;
  /** Of one request that has all nodes, in seconds. */
  readonly latency: { readonly transfer: number; readonly compute: number; readonly join: number };
  /** Of what the threads of the nodes could do in that time. */
  readonly efficiency: number;
  /** Of many requests at a time: what limits them first. */
  readonly perMinute: number;
  readonly limit: 'compute' | 'store';
}

/** As the cut has them for 32 heads: one each. */
const PARTS = 32;

/** @param nodes workers of one store, beside as many API nodes as they need. */
export function modelOf(measured: Measured, assumed: Assumed, nodes: number): Modelled {
  const { length, heads, headDim, inFeatures, rank, threads, network } = assumed;
  const width = heads * headDim;
  // Causal; S, dP and thin products, as exactWork has them.
  const work = heads * (length ** 2 / 2) * (2 * (2 * headDim + 4 * rank) + 100);
  const shared = 4 * length * inFeatures;
  const ofHeads = 4 * (length * width + 3 * inFeatures * width);
  const result = 8 * 2 * rank * (2 * inFeatures + (2 * width) / PARTS) * PARTS;
  const useful = Math.min(nodes, PARTS);
  const put = Math.min(network, measured.put);
  const get = Math.min(network / useful, measured.get);
  const transfer = (shared + ofHeads) / put + (shared + ofHeads / useful) / get;
  const compute = (Math.ceil(PARTS / useful) * work) / PARTS / (measured.rate * threads);
  const join = result / put + result / Math.min(network, measured.get) + PARTS * measured.message;
  const latency = transfer + compute + join;
  // With many requests at a time each worker meets each request.
  const fromStore = useful * shared + ofHeads + result;
  const perSecond = {
    compute: (nodes * measured.rate * threads) / work,
    store: network / fromStore,
  };
  const limit = perSecond.compute < perSecond.store ? 'compute' : 'store';
  return {
    nodes,
    latency: { transfer, compute, join },
    efficiency: work / (measured.rate * threads * useful * latency),
    perMinute: 60 * perSecond[limit],
    limit,
  };
}
