/**
 * How an operation of the inner loops is declared: the arguments in their order, and for an array how long it
 * is and what the operation does with it. The bindings, the self-check and the tests are made of this.
 */

export type Sizes = Readonly<Record<string, number>>;

/** Random numbers for the operands of a trial. */
export interface Draw {
  /** A whole number of [least, most]. */
  integer(least: number, most: number): number;
  uniform(least: number, most: number): number;
  flag(): boolean;
}

type ElementType = 'f32' | 'f64' | 'i32';

/** An address in bytes; the array that lies there. */
export interface ArrayArgument {
  readonly kind: 'array';
  readonly name: string;
  readonly type: ElementType;
  /** read: the operation does not change it. write: it does not read it. scratch: what it leaves there is nobody's. */
  readonly access: 'read' | 'write' | 'update' | 'scratch';
  /** Elements; 0: the array is absent, and its address 0. */
  readonly length: (sizes: Sizes) => number;
  /** Element `index` of a trial; by default a number of [-1, 1]. */
  readonly value?: (draw: Draw, sizes: Sizes, index: number) => number;
}

export interface NumberArgument {
  readonly kind: 'size' | 'f32' | 'f64' | 'flag';
  readonly name: string;
}

/** The address of a structure of words, each a number or the address of an array. */
export interface StructArgument {
  readonly kind: 'struct';
  readonly name: string;
  /** i32: all of it lies in the memory of the build. f64: addresses may be those of `lend`. */
  readonly words: 'i32' | 'f64';
  readonly fields: readonly (ArrayArgument | NumberArgument)[];
}

type Argument = ArrayArgument | NumberArgument | StructArgument;

export interface Operation<
  A extends readonly Argument[] = readonly Argument[],
  R extends boolean = boolean,
> {
  readonly arguments: A;
  /** Sizes and flags of a trial that fit each other. */
  readonly sizes: (draw: Draw) => Sizes;
  /** A float32. */
  readonly returns: R;
  /** Errors are measured against each element alone, not against the largest one. */
  readonly elementwise: boolean;
  /** What it keeps in float64 are sums of float32. */
  readonly single: boolean;
}

export const size = (name: string) => ({ kind: 'size', name }) as const;
export const flag = (name: string) => ({ kind: 'flag', name }) as const;
export const f32 = (name: string) => ({ kind: 'f32', name }) as const;
export const f64 = (name: string) => ({ kind: 'f64', name }) as const;

type Length = ArrayArgument['length'];
type Value = ArrayArgument['value'];

function array(access: ArrayArgument['access']) {
  return <const T extends ElementType>(
    type: T,
    name: string,
    length: Length,
    value?: Value,
  ): ArrayArgument & { readonly type: T } => ({
    ...{ kind: 'array', name, type, access, length },
    ...(value ? { value } : {}),
  });
}

export const read = array('read');
export const write = array('write');
export const update = array('update');
export const scratch = array('scratch');

export function operation<const A extends readonly Argument[], const R extends boolean = false>(
  argumentList: A,
  sizes: Operation['sizes'],
  options: { returns?: R; elementwise?: boolean; single?: boolean } = {},
): Operation<A, R> {
  const { returns = false as R, elementwise = false, single = false } = options;
  return { arguments: argumentList, sizes, returns, elementwise, single };
}

type Passed<T> = T extends { kind: 'flag' } ? boolean : number;

/** The function that an operation is for its callers. */
export type Callable<O> =
  O extends Operation<infer A, infer R>
    ? (...args: { [I in keyof A]: Passed<A[I]> }) => R extends true ? number : void
    : never;

interface ArrayTypes {
  f32: Float32Array;
  f64: Float64Array;
  i32: Int32Array;
}

type Given<T> = T extends { kind: 'array'; type: infer E extends ElementType }
  ? ArrayTypes[E]
  : Passed<T>;

/** The same with arrays in place of their addresses. */
export type OnArrays<O> =
  O extends Operation<infer A, infer R>
    ? (...args: { [I in keyof A]: Given<A[I]> }) => R extends true ? number : void
    : never;

/** Numbers and arrays of an operation, those inside a structure included. */
export function operands({ arguments: all }: Operation): (ArrayArgument | NumberArgument)[] {
  return all.flatMap((one) => (one.kind === 'struct' ? one.fields : [one]));
}
