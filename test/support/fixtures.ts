/** Reads what test/fixtures/make_fixtures.py wrote. */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { unpack } from 'msgpackr/unpack';
import type { WireTensor } from './wire/wire-tensor.js';

export interface ProjectionFields {
  weight: WireTensor;
  bias?: WireTensor;
  lora_A?: WireTensor;
  lora_B?: WireTensor;
  lora_alpha?: number;
  use_rslora?: boolean;
}

export type ProjectionName = 'q_proj' | 'k_proj' | 'v_proj';
export const PROJECTIONS: readonly ProjectionName[] = ['q_proj', 'k_proj', 'v_proj'];

/** The body of POST /gradient as it goes over the wire. */
export interface GradientRequest extends Record<ProjectionName, ProjectionFields> {
  /** In place of the inputs and the projections, which then are absent. */
  query?: WireTensor;
  key?: WireTensor;
  value?: WireTensor;
  hidden_states?: WireTensor;
  query_states?: WireTensor;
  key_states?: WireTensor;
  value_states?: WireTensor;
  num_attention_heads?: number;
  num_key_value_heads?: number;
  scaling?: number;
  is_causal?: boolean;
  cos?: WireTensor;
  sin?: WireTensor;
  /** A plain list will do. */
  key_lengths?: WireTensor | number[];
  first_keys?: number[];
  window?: [number, number];
  sequence_lengths?: number[] | number[][];
  softcap?: number;
  sinks?: WireTensor;
  target?: WireTensor;
  grad_output?: WireTensor;
  outputs?: string[];
  tolerance?: number;
}

export const STATES = ['query', 'key', 'value', 'sinks'] as const;
export type Gradients = Partial<
  Record<ProjectionName, { lora_A: WireTensor; lora_B: WireTensor }> &
    Record<(typeof STATES)[number], WireTensor>
>;

export type StatesName = 'hidden_states' | 'query_states' | 'key_states' | 'value_states';
export type InputGradients = Partial<Record<StatesName, WireTensor>>;

export interface Threshold {
  gamma: number;
  limit: number;
  ratio: number | null;
  below_threshold: boolean;
  sequence_length: number;
  head_dim_over_log_length: number | null;
  norms: Record<string, number>;
}

export interface Fixture {
  name: string;
  request: GradientRequest;
  expected: {
    gradients: Gradients;
    threshold: Threshold;
    loss?: number;
    attention_output?: WireTensor;
    input_gradients?: InputGradients;
  };
  naive_float32: Record<string, number>;
  answer_rounding: Record<string, number>;
  finite_differences: boolean;
}

const FOLDER = fileURLToPath(new URL('../../../test/fixtures/', import.meta.url));

export function loadFixtures(): Fixture[] {
  const names = readdirSync(FOLDER).filter((name) => name.endsWith('.msgpack'));
  return names.sort().map((name) => unpack(readFileSync(FOLDER + name)) as Fixture);
}
