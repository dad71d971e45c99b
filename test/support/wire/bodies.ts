/** A small valid request, and ways to spoil it. */
import { Packr } from 'msgpackr/pack';

const packr = new Packr({ useRecords: false });
export const pack = (value: unknown): Buffer => Buffer.from(packr.pack(value));

// biome-ignore lint/suspicious/noExplicitAny: bodies are spoilt on purpose
export type Body = Record<string, any>;

export function tensor(shape: number[], fill: (k: number) => number = (k) => Math.sin(k)): Body {
  const count = shape.reduce((a, b) => a * b, 1);
  const values = Float32Array.from({ length: count }, (_, k) => fill(k));
  return { dtype: 'float32', shape, data: Buffer.from(values.buffer) };
}

/** Four tokens of width four, one head of width two, rank one on q and v. */
export function validBody(): Body {
  const projection = () => ({ weight: tensor([2, 4]) });
  const adapted = () => ({
    weight: tensor([2, 4]),
    lora_A: tensor([1, 4]),
    lora_B: tensor([2, 1]),
  });
  return {
    hidden_states: tensor([4, 4]),
    q_proj: adapted(),
    k_proj: projection(),
    v_proj: adapted(),
    target: tensor([4, 2]),
  };
}

/** The valid body after a change. */
export function spoilt(change: (body: Body) => void): Body {
  const body = validBody();
  change(body);
  return body;
}

/** One head of so many tokens and columns, with an adapter of rank two on q, and an upstream gradient. */
export function longBody(length: number, width: number, more: object = {}): Buffer {
  const weight = tensor([width, width]);
  return pack({
    hidden_states: tensor([length, width]),
    q_proj: { weight, lora_A: tensor([2, width]), lora_B: tensor([width, 2]) },
    k_proj: { weight },
    v_proj: { weight },
    grad_output: tensor([length, width]),
    ...more,
  });
}

/** Computed in float64. */
export const FLOAT64 = { tolerance: 1e-9 };

/** Some 45 seconds of float64 for one worker. */
export const endlessBody = (): Uint8Array => longBody(6000, 64, FLOAT64);
