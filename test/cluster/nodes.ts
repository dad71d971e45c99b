/** API nodes and workers of a queue, for tests: workers as processes of their own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { QueueExecutor } from '../../src/cluster/queue-executor.js';
import { WorkerPool } from '../../src/pool/worker-pool.js';
import type { Job, LargeTask, Task } from '../../workers/job.js';

const CLI = fileURLToPath(new URL('../../src/cli.js', import.meta.url));

export interface WorkerProcess {
  readonly child: ChildProcess;
  /** SIGTERM, until it has ended; its exit code. */
  end(): Promise<number | null>;
}

export async function startWorker(
  url: string,
  env: NodeJS.ProcessEnv = {},
): Promise<WorkerProcess> {
  const child = spawn(process.execPath, [CLI, 'worker'], {
    env: { ...process.env, PORT: '0', LORAGRAD_WORKERS: '1', LORAGRAD_QUEUE_URL: url, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const line of child.stdout!.setEncoding('utf8')) {
    if (line.includes('takes parts')) break;
  }
  child.stdout!.resume();
  return {
    child,
    end: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
      const gone = once(child, 'exit');
      child.kill('SIGTERM');
      await gone;
      return child.exitCode;
    },
  };
}

export async function startNode(url: string, ttlMs = 60_000): Promise<QueueExecutor> {
  const pool = await WorkerPool.start({ workers: 1, warmUpMs: 120_000 });
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
