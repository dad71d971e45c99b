/**
 * The exact kernel against PyTorch on the same processor: LoRA gradients of one head.
 *
 *     node dist/bench/kernel.js [--quick] [--revectorize] [--threads 1,2] [--lengths 1024,4096]
 *
 * All contestants take turns, round by round, so that whatever else the machine does hits them alike;
 * the table shows medians. PYTHON names the interpreter (python3 by default). One line of JSON per
 * row goes to standard output, progress to standard error.
 */
import { parseArgs } from 'node:util';
import type { AttentionProblem } from '../src/lora/problem.js';
import { randomProblem } from '../test/kernels/problems.js';
import { exactJob } from '../workers/kernels/exact/gradient.js';
import { Threads } from './threads.js';
import { Torch } from './torch.js';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    revectorize: { type: 'boolean', default: false },
    threads: { type: 'string', default: '1,2' },
    lengths: { type: 'string', default: '1024,4096,16384' },
    dims: { type: 'string', default: '64,128' },
    rounds: { type: 'string', default: '5' },
  },
});
const numbers = (list: string): number[] => list.split(',').map(Number);
const RANK = 8;
/** PyTorch's plain autograd keeps several L x L matrices: beyond this it needs more than 8 GB. */
const LONGEST_AUTOGRAD = 16384;

interface Row {
  readonly length: number;
  readonly dim: number;
  readonly adapters: string;
  readonly threads: number;
  readonly mode: string;
  /** Seconds, by contestant: 'loragrad' and PyTorch's ways. */
  readonly seconds: Readonly<Record<string, number>>;
  /** How many times faster than PyTorch's best, and than plain autograd. */
  readonly overBest: number | null;
  readonly overAutograd: number | null;
}

const median = (list: readonly number[]): number =>
  [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]!;

function makeProblem(length: number, dim: number, adapters: string): AttentionProblem {
  const ranks = Object.fromEntries([...adapters].map((name) => [name, RANK]));
  return randomProblem({ seed: 1, queryLength: length, headDim: dim, inFeatures: dim, ranks });
}

async function compare(
  threads: Threads,
  count: number,
  torch: Torch | null,
  length: number,
  dim: number,
  adapters: string,
): Promise<Row> {
  const problem = makeProblem(length, dim, adapters);
  const times: Record<string, number[]> = {};
  const book = (name: string, seconds: number) => {
    times[name] = [...(times[name] ?? []), seconds];
  };
  const ways = (torch?.ways ?? []).filter(
    (way) => way !== 'autograd' || length <= LONGEST_AUTOGRAD,
  );
  const rounds = Number(options.rounds) + 1;
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    await threads.run(exactJob(problem, { attentionOutput: false }));
    // The first round warms up.
    if (round > 0) book('loragrad', (performance.now() - start) / 1000);
    for (const way of ways) {
      const seconds = await torch!.seconds({
        ...{ way, length, dim, rank: RANK, adapters, threads: count },
      });
      if (round > 0 && seconds !== null) book(way, seconds);
    }
    process.stderr.write(
      `\rL ${length} d ${dim} ${adapters} ${count} threads: ${round}/${rounds - 1} `,
    );
  }
  const seconds = Object.fromEntries(Object.entries(times).map(([k, list]) => [k, median(list)]));
  const theirs = ways.flatMap((way) => (seconds[way] ? [seconds[way]] : []));
  const over = (x: number | undefined) => (x ? x / seconds.loragrad! : null);
  return {
    ...{ length, dim, adapters, threads: count, mode: threads.mode, seconds },
    overBest: over(theirs.length ? Math.min(...theirs) : undefined),
    overAutograd: over(seconds.autograd),
  };
}

const torch = await Torch.start(process.env.PYTHON ?? 'python3');
if (torch) process.stderr.write(`PyTorch ${torch.version}: ${torch.ways.join(', ')}\n`);
else process.stderr.write('No PyTorch here (pip install torch, or apt install python3-torch)\n');
for (const count of numbers(options.threads)) {
  const threads = await Threads.start(count, { revectorize: options.revectorize });
  for (const length of options.quick ? [1024] : numbers(options.lengths)) {
    for (const dim of options.quick ? [64] : numbers(options.dims)) {
      for (const adapters of ['qv', 'qkv']) {
        const row = await compare(threads, count, torch, length, dim, adapters);
        process.stderr.write('\r');
        process.stdout.write(`${JSON.stringify(row)}\n`);
      }
    }
  }
  await threads.stop();
}
torch?.stop();
