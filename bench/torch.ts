/** The PyTorch side of a comparison: torch_attention.py as a process that answers line by line. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export interface TorchSettings {
  readonly way: string;
  readonly length: number;
  readonly dim: number;
  readonly rank: number;
  readonly adapters: string;
  readonly threads: number;
}

/** Found from dist/bench/ as well as from bench/. */
const SCRIPT = fileURLToPath(new URL('../../bench/torch_attention.py', import.meta.url));

export class Torch {
  readonly version: string;
  readonly ways: readonly string[];
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  private constructor(
    process: ChildProcess,
    lines: Interface,
    hello: string,
    rest: AsyncIterator<string>,
  ) {
    const { torch, ways } = JSON.parse(hello) as { torch: string; ways: string[] };
    this.version = torch;
    this.ways = ways;
    this.#process = process;
    this.#lines = rest;
    process.once('exit', () => lines.close());
  }

  /** null when that Python has no PyTorch. */
  static async start(python: string): Promise<Torch | null> {
    const child = spawn(python, [SCRIPT, '--serve'], { stdio: ['pipe', 'pipe', 'ignore'] });
    child.once('error', () => {});
    const lines = createInterface({ input: child.stdout });
    const iterator = lines[Symbol.asyncIterator]();
    const hello = await iterator.next();
    return hello.done ? null : new Torch(child, lines, hello.value, iterator);
  }

  /** Seconds of one forward and backward; null when PyTorch failed (out of memory). */
  async seconds(settings: TorchSettings): Promise<number | null> {
    this.#process.stdin!.write(`${JSON.stringify(settings)}\n`);
    const line = await this.#lines.next();
    if (line.done) throw new Error('PyTorch went away');
    return (JSON.parse(line.value) as { seconds?: number }).seconds ?? null;
  }

  stop(): void {
    this.#process.stdin!.end();
  }
}
