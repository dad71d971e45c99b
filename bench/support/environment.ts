/** Where a measurement was made. */
import { cpus, release, type } from 'node:os';
import { usableCpus, usableMemory } from '../../src/machine/resources.js';
import { peakRate } from '../../workers/kernels/inner/native.js';
import { digits } from './format.js';

export interface Environment {
  readonly cpu: string;
  readonly cpus: number;
  readonly memoryGiB: number;
  /** Load average when the run began: above about 0.5, somebody else was at work too. */
  readonly loadAtStart: number;
  readonly system: string;
  readonly node: string;
  readonly v8: string;
  /** Which build of the inner loops ran. */
  readonly kernels: string;
  /** Flops per second of fused multiply-adds on one core; null or absent: not measured. */
  readonly peak?: number | null;
  /** Version of PyTorch; null: it took no part. */
  readonly torch: string | null;
}

export function environment(
  kernels: string,
  torch: string | null,
  loadAtStart: number,
): Environment {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cpus: usableCpus(),
    memoryGiB: Math.round(usableMemory() / 2 ** 30),
    loadAtStart,
    system: `${type()} ${release().split('-')[0]}, ${process.arch}`,
    node: process.versions.node,
    v8: process.versions.v8,
    kernels,
    peak: peakRate(),
    torch,
  };
}

export function environmentLine(e: Environment): string {
  const torch = e.torch === null ? '' : `, PyTorch ${e.torch}`;
  const peak = e.peak ? `, at most ${digits(e.peak / 1e9)} GFLOP/s a core` : '';
  return `${e.cpu}, ${e.cpus} CPUs, ${e.memoryGiB} GiB, ${e.system}; Node ${e.node} (V8 ${e.v8}), ${e.kernels} kernels${peak}${torch}; load average ${e.loadAtStart} at the start`;
}
