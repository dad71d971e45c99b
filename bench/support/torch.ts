/** The PyTorch side: torch_attention.py as a process that answers line by line. */

import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { AttentionProblem, Projection } from '../../workers/problem.js';
import type { Tensor } from '../../workers/tensor/tensor.js';

export interface TorchSetting {
  readonly way: string;
  readonly length: number;
  readonly dim: number;
  readonly rank: number;
  /** The letters of the adapted projections: 'qv', 'qkv'. */
  readonly adapters: string;
  readonly threads: number;
}

interface Hello {
  readonly torch: string;
  readonly ways: readonly string[];
}

/** The script is no TypeScript and stays where it is; this file runs from dist/bench/support/. */
const SCRIPT = fileURLToPath(new URL('../../../bench/torch_attention.py', import.meta.url));

export class Torch {
  readonly version: string;
  readonly ways: readonly string[];
  readonly #python: string;
  #process: PythonProcess;

  private constructor(python: string, process: PythonProcess, hello: Hello) {
    this.#python = python;
    this.#process = process;
    this.version = hello.torch;
    this.ways = hello.ways;
  }

  /** @throws {Error} that says what to do, when this Python is missing or has no PyTorch. */
  static async start(python: string): Promise<Torch> {
    const process = new PythonProcess(python);
    const hello = await process.line();
    if (hello === null) throw new Error(howToInstall(python, process.complaint));
    return new Torch(python, process, JSON.parse(hello) as Hello);
  }

  /** Seconds of one forward and backward; null when PyTorch ran out of memory. */
  async seconds(setting: TorchSetting): Promise<number | null> {
    this.#process.write(JSON.stringify(setting));
    const line = await this.#process.line();
    if (line !== null) return (JSON.parse(line) as { seconds?: number }).seconds ?? null;
    // The system ended the process, for its memory most likely; the other ways go on in a new one.
    this.#process = new PythonProcess(this.#python);
    if ((await this.#process.line()) === null) throw new Error(this.#process.complaint);
    return null;
  }

  /**
   * Gradients of a problem with one head and one batch item, by autograd in float64; by name of the
   * tensor.
   *
   * @throws {Error} when PyTorch fails.
   */
  async gradients(problem: AttentionProblem): Promise<Readonly<Record<string, number[]>>> {
    this.#process.write(JSON.stringify({ problem: wireProblem(problem) }));
    const line = await this.#process.line();
    const answer =
      line === null ? {} : (JSON.parse(line) as { gradients?: Record<string, number[]> });
    if (!answer.gradients)
      throw new Error(`PyTorch gave no gradients: ${line ?? this.#process.complaint}`);
    return answer.gradients;
  }

  stop(): void {
    this.#process.end();
  }
}

/** Without the dimension of the batch. */
function wireProblem({ inputs, projections, objective, scaling, mask }: AttentionProblem) {
  const wire = ({ data, shape }: Tensor) => ({ shape, data: Array.from(data) });
  const item = (tensor: Tensor) => wire({ ...tensor, shape: tensor.shape.slice(1) });
  const projection = ({ weight, bias, adapter }: Projection) => ({
    weight: wire(weight!),
    bias: bias && wire(bias),
    lora_A: adapter && wire(adapter.A),
    lora_B: adapter && wire(adapter.B),
    scaling: adapter?.scaling,
  });
  return {
    query: item(inputs.query),
    key: item(inputs.key),
    value: item(inputs.value),
    q_proj: projection(projections.q_proj),
    k_proj: projection(projections.k_proj),
    v_proj: projection(projections.v_proj),
    beta: scaling,
    causal: mask.right === 0,
    kind: objective.kind,
    objective: item(objective.tensor),
  };
}

function howToInstall(python: string, complaint: string): string {
  const last = complaint.trim().split('\n').at(-1) || 'it ended without a word';
  return `No PyTorch in ${python} (${last}). To compare with it: pip install torch, or apt install python3-torch; PYTHON names another interpreter.`;
}

/** Lines in, lines out. */
class PythonProcess {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  complaint = '';

  constructor(python: string) {
    // PyTorch is to choose its own code for this processor.
    const { OPENBLAS_CORETYPE: _, OPENBLAS_L2_SIZE: __, ...env } = process.env;
    const child = spawn(python, [SCRIPT, '--serve'], { stdio: 'pipe', env });
    this.#child = child;
    child.once('error', (error) => {
      this.complaint += error.message;
    });
    // Writing to a process that has died is noticed at the next read.
    child.stdin.on('error', () => {});
    child.stderr.on('data', (text: Buffer) => {
      this.complaint = (this.complaint + text).slice(-2000);
    });
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  write(line: string): void {
    this.#child.stdin!.write(`${line}\n`);
  }

  /** null: there will be no more. */
  async line(): Promise<string | null> {
    const { done, value } = await this.#lines.next();
    return done ? null : value;
  }

  /** It reads the end of its input and leaves. */
  end(): void {
    this.#child.stdin!.end();
  }
}
