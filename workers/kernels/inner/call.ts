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

/** One call of an operation; arrays and sizes by the names of arguments or fields. */
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
  if (!value) return fill(x, draw.integer(0, 2 ** 32 - 1));
  for (let i = 0; i < x.length; i++) x[i] = value(draw, sizes, i);
  return x;
}

/** Numbers of [-1, 1]. Most operands are these, and the service starts with them: a plain generator, in place. */
function fill(x: Elements, seed: number): Elements {
  let state = seed;
  for (let i = 0; i < x.length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    x[i] = state / 2 ** 31;
  }
  return x;
}

/** Bytes on either side of an array that nothing may write. */
const CANARIES = 256;
const CANARY = 0xa5;
const UNTOUCHED = Buffer.alloc(CANARIES, CANARY);

/** Puts the operands into memory, calls, and looks at what came of it. Frees what lay in memory. */
export function runCall(wasm: Wasm, call: Call): Outcome {
  const { args, places } = placeCall(wasm, call);
  const returned = (wasm.fn[call.name] as (...x: readonly number[]) => number | undefined)(...args);
  const damaged = places.filter(({ one, at, before }) => {
    const written = (from: number) =>
      !UNTOUCHED.equals(new Uint8Array(wasm.buffer, from, CANARIES));
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
function placeCall(
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

/** Allowed rounding of sums of some hundred terms, in float32 units of the largest element. */
const ROUNDINGS = 100;
interface Precision {
  /** Allowed difference, relative to the largest element. */
  readonly rounding: number;
  /** Allowed difference in multiples of what changes when the operands are nudged by a rounding of float32. */
  readonly nudges: number;
}
const SINGLE: Precision = { rounding: ROUNDINGS * 2 ** -24, nudges: ROUNDINGS };
const DOUBLE: Precision = { rounding: 1000 * 2 ** -53, nudges: ROUNDINGS * 2 ** -29 };

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
  const { single, elementwise } = operation;
  const compare = (name: string, isDouble: boolean, pick: NumbersOf) => {
    // All of one type: loops over arrays of several types are ten times slower.
    const [x, y] = [outcome, right].map((of) => new Float64Array(pick(of))) as [Numbers, Numbers];
    const z = other === right ? y : new Float64Array(pick(other));
    const precision = isDouble ? DOUBLE : SINGLE;
    const i = elementwise ? differsByItself(x, y, z, precision) : differs(x, y, z, precision);
    if (i === null) return null;
    return `${call.name}: ${name}[${i}] is ${x[i]}, not ${y[i]} (sizes ${JSON.stringify(call.numbers)})`;
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

type Numbers = Float64Array;
type NumbersOf = (outcome: ReturnType<Reference>) => ArrayLike<number>;

const finite = (x: number) => (Number.isFinite(x) ? x : 0);
const largest = (x: Numbers, y: Numbers | null) => {
  let size = 0;
  for (let i = 0; i < x.length; i++) size = Math.max(size, finite(Math.abs(x[i]! - (y?.[i] ?? 0))));
  return size;
};

/** The first x that is further from y than rounding makes it, beside the largest y; z: y of nudged operands. */
function differs(x: Numbers, y: Numbers, z: Numbers, of: Precision): number | null {
  const off = of.rounding * largest(y, null) + (z === y ? 0 : of.nudges * largest(y, z));
  for (let i = 0; i < x.length; i++) {
    // Infinities are the same or not.
    if (x[i] !== y[i] && !(Math.abs(x[i]! - y[i]!) <= off)) return i;
  }
  return null;
}

/** The same beside its own y alone. */
function differsByItself(x: Numbers, y: Numbers, z: Numbers, of: Precision): number | null {
  for (let i = 0; i < x.length; i++) {
    if (x[i] === y[i]) continue;
    const off = of.rounding * finite(Math.abs(y[i]!)) + of.nudges * finite(Math.abs(y[i]! - z[i]!));
    if (!(Math.abs(x[i]! - y[i]!) <= off)) return i;
  }
  return null;
}

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
