/** What the form asks for. */
import type { GradientRequest } from 'loragrad-client';

export interface Settings {
  readonly length: number;
  readonly headDim: number;
  readonly heads: number;
  readonly spectrum: 'exponential' | 'harmonic' | 'flat';
  /** Standard deviation of the logits of the last head; the first has half of it. */
  readonly logits: number;
  readonly tail: 'normal' | 'student';
  readonly mask: 'none' | 'causal';
  readonly adapters: 'qv' | 'qkv';
  readonly method: NonNullable<GradientRequest['method']>;
  readonly tolerance: number;
  readonly seed: number;
}

export const DEFAULTS: Settings = {
  length: 4096,
  headDim: 64,
  heads: 2,
  spectrum: 'exponential',
  logits: 0.2,
  tail: 'normal',
  mask: 'none',
  adapters: 'qv',
  method: 'auto',
  tolerance: 0.01,
  seed: 1,
};
