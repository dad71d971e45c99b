/** The inner loops on arrays: an operation takes an address where its caller has an array of the scratch memory. */
import type { OnArrays } from '../../inner/operations/operation.js';
import type { OPERATIONS, OperationName, Operations } from '../../inner/operations/operations.js';

/** Finds operations by name, with their parameters in their order. @param before called before each of them. */
export function binder(fn: Operations, before: () => void) {
  return <Name extends OperationName>(name: Name): OnArrays<(typeof OPERATIONS)[Name]> => {
    const operation = fn[name] as (...args: (number | boolean)[]) => unknown;
    const onArrays = (...args: (number | boolean | ArrayBufferView)[]) => {
      before();
      return operation(...args.map(address));
    };
    return onArrays as OnArrays<(typeof OPERATIONS)[Name]>;
  };
}

function address(argument: number | boolean | ArrayBufferView): number | boolean {
  return typeof argument === 'object' ? argument.byteOffset : argument;
}
