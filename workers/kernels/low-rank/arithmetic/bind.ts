/** Operands of a block operation lie in the scratch memory. */
export type Operand = Float32Array | Float64Array | Int32Array;
type Argument = number | boolean | Operand;

/** An export of the inner loops takes an address wherever a block operation takes an array. */
type Export<Arguments extends readonly Argument[], Result> = (
  ...args: { [K in keyof Arguments]: Arguments[K] extends Operand ? number : Arguments[K] }
) => Result;

/** Makes block operations of exports, with their parameters in their order. @param before called before each of them. */
export function binder(before: () => void) {
  return <Arguments extends readonly Argument[], Result = void>(
    operation: Export<Arguments, Result>,
  ): ((...args: Arguments) => Result) => {
    const raw = operation as (...args: (number | boolean)[]) => Result;
    return (...args) => {
      before();
      return raw(...args.map(address));
    };
  };
}

function address(argument: Argument): number | boolean {
  return typeof argument === 'object' ? argument.byteOffset : argument;
}
