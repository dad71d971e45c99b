/** One call of an operation with random operands, on any build: for the self-check and for tests. */
import type { Wasm } from './instance.js';
import {
  type ArrayArgument,
  type Draw,
  type NumberArgument,
  type Operation,
  operands,
  type Sizes,
} from './operations/operation.js';
import { OPERATIONS, type OperationName } from './operations/operations.js';
import { STAGES, type StageName } from './operations/stages.js';

export type Elements = Float32Array | Float64Array | Int32Array;

/** By name of the argument, or of the field of a structure. */
export interface Call {
  readonly name: OperationName | StageName;
  readonly numbers: Sizes;
  readonly arrays: Readonly<Record<string, Elements>>;
}

export interface Outcome {
  /** What the arrays hold afterwards. */
  readonly arrays: Readonly<Record<string, Elements>>;
  readonly returned: number | null;
  /** Arrays that were written beyond an end, or in spite of being only read. */
  readonly damaged: readonly string[];
}

const DECLARED: Readonly<Record<Call['name'], Operation>> = { ...OPERATIONS, ...STAGES };

export function drawFrom(random: { uniform(): number }): Draw {
  const integer = (least: number, most: number) =>
    least + Math.floor(random.uniform() * (most - least + 1));
  return {
    integer,
    uniform: (least, most) => least + (most - least) * random.uniform(),
    flag: () => integer(0, 1) === 1,
  };
}

const TYPES = { f32: Float32Array, f64: Float64Array, i32: Int32Array } as const;

/** @param given sizes that are not drawn. */
export function drawCall(name: Call['name'], draw: Draw, given: Sizes = {}): Call {
  const operation = DECLARED[name];
  const sizes = { ...operation.sizes(draw), ...given };
  const all = operands(operation);
  const scalars = all.filter((one) => one.kind !== 'array');
  const numbers = {
    ...sizes,
    ...Object.fromEntries(scalars.map((one) => [one.name, sizes[one.name] ?? scalar(one, draw)])),
  };
  const arrays = all
    .filter((one) => one.kind === 'array')
    .map((one) => [one.name, drawArray(one, numbers, draw)] as const);
  return { name, numbers, arrays: Object.fromEntries(arrays) };
}

/** Numbers that are exact in float32: each build gets the same. */
function scalar({ kind }: NumberArgument, draw: Draw): number {
  return kind === 'flag' ? Number(draw.flag()) : Math.fround(draw.uniform(-1, 1));
}

function drawArray({ type, length, value }: ArrayArgument, sizes: Sizes, draw: Draw): Elements {
  const x = new TYPES[type](length(sizes));
  for (let i = 0; i < x.length; i++) x[i] = value ? value(draw, sizes, i) : draw.uniform(-1, 1);
  return x;
}

/** Bytes on either side of an array that nothing may write. */
const CANARIES = 256;
const CANARY = 0xa5;

/** Puts the operands into memory, calls, and looks at what came of it. Frees what lay in memory. */
export function runCall(wasm: Wasm, call: Call): Outcome {
  const { args, places } = placeCall(wasm, call);
  const returned = (wasm.fn[call.name] as (...x: readonly number[]) => number | undefined)(...args);
  const damaged = places.filter(({ one, at, before }) => {
    const written = (from: number) =>
      new Uint8Array(wasm.buffer, from, CANARIES).some((byte) => byte !== CANARY);
    return (
      written(at - CANARIES) ||
      written(at + before.byteLength) ||
      (one.access === 'read' && !sameBytes(elements(wasm, one, at, before.length), before))
    );
  });
  return {
    returned: returned ?? null,
    damaged: damaged.map(({ one }) => one.name),
    arrays: Object.fromEntries(
      places.map(({ one, at, before }) => [
        one.name,
        elements(wasm, one, at, before.length).slice(),
      ]),
    ),
  };
}

interface Place {
  readonly one: ArrayArgument;
  readonly at: number;
  readonly before: Elements;
}

/** The operands in memory, at addresses that are no better aligned than callers' are, and the arguments. */
export function placeCall(
  wasm: Wasm,
  { name, numbers, arrays }: Call,
): { args: number[]; places: Place[] } {
  const operation = DECLARED[name];
  const places: Place[] = [];
  wasm.reset();
  // Memory is to have grown before anybody looks at it.
  const bytes = Object.values(arrays).reduce((sum, x) => sum + x.byteLength + 4 * CANARIES, 0);
  const start = wasm.mark();
  wasm.alloc(bytes);
  wasm.release(start);

  const place = (one: ArrayArgument): number => {
    const before = arrays[one.name]!;
    if (before.length === 0) return 0;
    const skew = before.BYTES_PER_ELEMENT * (1 + (places.length % 3));
    const at = wasm.alloc(before.byteLength + 2 * CANARIES + skew) + CANARIES + skew;
    const around = new Uint8Array(wasm.buffer, at - CANARIES, before.byteLength + 2 * CANARIES);
    around.fill(CANARY);
    elements(wasm, one, at, before.length).set(before);
    places.push({ one, at, before });
    return at;
  };
  const value = (one: ArrayArgument | NumberArgument) =>
    one.kind === 'array' ? place(one) : numbers[one.name]!;
  const args = operation.arguments.map((one) => {
    if (one.kind !== 'struct') return value(one);
    const words = one.fields.map(value);
    const at = wasm.alloc(8 * words.length);
    wasm[one.words](at, words.length).set(words);
    return at;
  });
  return { args, places };
}

function elements(wasm: Wasm, { type }: ArrayArgument, at: number, n: number): Elements {
  return wasm[type](at, n);
}

function sameBytes(a: Elements, b: Elements): boolean {
  const [x, y] = [a, b].map((one) => Buffer.from(one.buffer, one.byteOffset, one.byteLength));
  return x!.equals(y!);
}

/** Of sums of some hundred terms, in units of the largest element. */
const ROUNDINGS = 100;
const SINGLE = ROUNDINGS * 2 ** -24;
const DOUBLE = 1000 * 2 ** -53;
const ROUGH = 2 ** -15;

/** What a call should come to. */
export type Reference = (call: Call) => Pick<Outcome, 'arrays' | 'returned'>;

/**
 * How an outcome differs from that of the reference by more than rounding; null: it does not. Where terms cancel,
 * rounding is large beside what is left of them: there the reference says how much one rounding of each operand changes.
 */
export function difference(call: Call, outcome: Outcome, reference: Reference): string | null {
  if (outcome.damaged.length > 0)
    return `${call.name} writes where it should not: ${outcome.damaged}`;
  const right = reference(call);
  if (!beyond(call, outcome, right)) return null;
  return beyond(call, outcome, right, reference(nudged(call)));
}

/** @param other what the reference makes of nudged operands. */
function beyond(
  call: Call,
  outcome: Outcome,
  right: ReturnType<Reference>,
  other = right,
): string | null {
  const operation = DECLARED[call.name];
  const { single, elementwise, rough } = operation;
  const narrow = rough ? ROUGH : SINGLE;
  const compare = (name: string, isDouble: boolean, pick: NumbersOf) => {
    // Of one type: loops over arrays that may be of several are ten times slower.
    const [x, y, z] = [outcome, right, other].map((of) => new Float64Array(pick(of))) as [
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    const sizeOf = (i: number) => finite(Math.abs(y[i]!));
    const changeOf = (i: number) => (isDouble ? 0 : finite(Math.abs(y[i]! - z[i]!)));
    let [size, change] = [0, 0];
    for (let i = 0; i < y.length; i++) {
      size = Math.max(size, sizeOf(i));
      change = Math.max(change, changeOf(i));
    }
    for (let i = 0; i < x.length; i++) {
      // Infinities are the same or not.
      if (x[i] === y[i]) continue;
      const [own, moved] = elementwise ? [sizeOf(i), changeOf(i)] : [size, change];
      if (!(Math.abs(x[i]! - y[i]!) <= (isDouble ? DOUBLE : narrow) * own + ROUNDINGS * moved)) {
        return `${call.name}: ${name}[${i}] is ${x[i]}, not ${y[i]} (sizes ${JSON.stringify(call.numbers)})`;
      }
    }
    return null;
  };
  const found = operands(operation)
    .filter((one) => one.kind === 'array')
    .filter(({ name, access }) => outcome.arrays[name] && access !== 'scratch')
    .map(({ name, type }) =>
      compare(name, type === 'f64' && !single, ({ arrays }) => arrays[name]!),
    );
  if (operation.returns) found.push(compare('result', false, ({ returned }) => [returned!]));
  return found.find((one) => one !== null) ?? null;
}

type Numbers = ArrayLike<number>;
type NumbersOf = (outcome: ReturnType<Reference>) => Numbers;

const finite = (x: number) => (Number.isFinite(x) ? x : 0);

/** Every number of the operands one rounding up or down, by turns that no size of a matrix repeats. */
function nudged(call: Call): Call {
  const nudge = (x: number, i: number) =>
    x * (1 + ((i * i + (i >> 3)) % 3 === 0 ? 1 : -1) * 2 ** -23);
  return {
    ...call,
    arrays: Object.fromEntries(
      Object.entries(call.arrays).map(([name, x]) => [
        name,
        x instanceof Int32Array ? x : x.map(nudge),
      ]),
    ),
  };
}
