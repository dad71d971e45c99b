/** API nodes and workers of a queue, for tests: workers as processes of their own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { QueueExecutor } from '../../src/cluster/queue-executor.js';
import { WorkerPool } from '../../src/pool/worker-pool.js';
import type { Job, LargeTask, Task } from '../../workers/job.js';
import type { Cut } from '../../workers/kernels/parts/cut.js';
import type { AttentionProblem } from '../../workers/problem.js';
import { RATES } from '../support/processes/server.js';
import { pack, tensor } from '../support/wire/bodies.js';

const CLI = fileURLToPath(new URL('../../src/cli.js', import.meta.url));

export interface NodeProcess {
  readonly child: ChildProcess;
  /** SIGTERM, until it has ended; its exit code. */
  end(): Promise<number | null>;
}

export type WorkerProcess = NodeProcess;

export interface ApiProcess extends NodeProcess {
  /** Where it listens. */
  readonly url: string;
}

/**
 * @param inside the command that runs it, if not this process: in a network namespace.
 * @param ready what it says when it is.
 */
export async function startWorker(
  url: string,
  env: NodeJS.ProcessEnv = {},
  inside: readonly string[] = [],
  ready = /takes parts/,
): Promise<WorkerProcess> {
  return (await start(['worker'], url, env, inside, ready)).node;
}

export async function startApi(
  url: string,
  env: NodeJS.ProcessEnv = {},
  inside: readonly string[] = [],
): Promise<ApiProcess> {
  const { node, found } = await start([], url, env, inside, /http:\/\/[\d.]+:\d+/);
  return { ...node, url: found };
}

/** @returns what its output has that shows that it is ready. */
async function start(
  args: readonly string[],
  url: string,
  env: NodeJS.ProcessEnv,
  inside: readonly string[],
  ready: RegExp,
): Promise<{ node: NodeProcess; found: string }> {
  const [command, ...rest] = [...inside, process.execPath, CLI, ...args] as [string, ...string[]];
  const child = spawn(command, rest, {
    env: {
      ...{ ...process.env, PORT: '0', LORAGRAD_WORKERS: '1', LORAGRAD_QUEUE_URL: url },
      // However busy the machine is.
      ...{ LORAGRAD_WARMUP_MS: '600000', ...env },
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let found: string | undefined;
  for await (const line of child.stdout!.setEncoding('utf8')) {
    found = String(line).match(ready)?.[0];
    if (found) break;
  }
  if (found === undefined) throw new Error('The process ended before it was ready');
  child.stdout!.resume();
  const node: NodeProcess = {
    child,
    end: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
      const gone = once(child, 'exit');
      child.kill('SIGTERM');
      await gone;
      return child.exitCode;
    },
  };
  return { node, found };
}

export async function startNode(url: string, ttlMs = 60_000): Promise<QueueExecutor> {
  const pool = await WorkerPool.start({ workers: 1, warmUpMs: 600_000, rates: RATES });
  return new QueueExecutor(pool, { url, ttlMs, cacheBytes: 2 ** 28 });
}

/** Resolves when the node knows of so many workers. */
export async function knows(node: QueueExecutor, workers: number): Promise<void> {
  while (node.figures().workers !== workers)
    await new Promise((resolve) => setTimeout(resolve, 50));
}

/** The job with parts that are said to be large, so that they are sent. */
export function* large<Result, T extends Task>(job: Job<Result, T>): Job<Result, T> {
  let step = job.next([]);
  while (!step.done) {
    const { jobOf, tasks } = step.value;
    const said = jobOf ? tasks.map((task): T & LargeTask => ({ ...task, flops: 1e15 })) : tasks;
    step = job.next(yield { ...step.value, tasks: said });
  }
  return step.value;
}

/** One part for each head of each item. */
export function cutsOf({ dims }: AttentionProblem): Cut[] {
  const rows = { first: 0, last: dims.queryLength };
  return Array.from({ length: dims.batch * dims.keyValueHeads }, (_, k) => {
    const [item, head] = [Math.floor(k / dims.keyValueHeads), k % dims.keyValueHeads];
    return {
      items: { first: item, last: item + 1 },
      sharedHeads: { first: head, last: head + 1 },
      rows,
    };
  });
}

/** A quarter of a second of one worker: worth being sent. */
export function largeBody(k: number): Uint8Array<ArrayBuffer> {
  const [length, width] = [5000, 32];
  const numbers = (shape: number[], scale: number) =>
    tensor(shape, (x) => scale * Math.sin(x * (k + 1.5)));
  const weight = () => numbers([width, width], 0.3);
  return new Uint8Array(
    pack({
      hidden_states: numbers([length, width], 1),
      q_proj: {
        weight: weight(),
        lora_A: numbers([4, width], 0.2),
        lora_B: numbers([width, 4], 0.2),
      },
      k_proj: { weight: weight() },
      v_proj: { weight: weight() },
      grad_output: numbers([length, width], 1),
      method: 'exact',
    }),
  );
}
