/** operations.h: the C declarations of the operations of workers/kernels/inner/operations.ts. */

const C_TYPES = { f32: 'float', f64: 'double', i32: 'int32_t' };

/** Names of arguments as C has them. */
const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

function parameter({ kind, name, type, access }) {
  if (kind === 'struct') return `const Block *${name}`;
  if (kind === 'array')
    return `${access === 'read' ? 'const ' : ''}${C_TYPES[type]} *${snake(name)}`;
  return `${C_TYPES[kind] ?? 'int'} ${snake(name)}`;
}

const READERS = { struct: 'AT_BLOCK', array: 'AT_ARRAY', size: 'AT_SIZE', flag: 'AT_FLAG' };
const reader = ({ kind }, i) => `${READERS[kind] ?? 'AT_NUMBER'}(${i})`;

export function operationsHeader(operations) {
  const all = Object.entries(operations);
  const struct = all.flatMap(([, one]) => one.arguments).find(({ kind }) => kind === 'struct');
  const fields = struct.fields.map((field) =>
    field.kind === 'array' ? `ARRAY(${C_TYPES[field.type]}, ${field.name})` : `SIZE(${field.name})`,
  );
  const lines = all.map(([name, { arguments: list, returns }]) => {
    const parameters = list.map(parameter).join(', ');
    const call = list.map(reader).join(', ');
    return `  OPERATION(${name}, ${list.length}, ${returns ? 'float' : 'void'}, (${parameters}), (${call}))`;
  });
  return `/* Made by scripts/native-header.mjs of workers/kernels/inner/operations.ts; do not edit. */
#pragma once
#include <stdint.h>

#define BLOCK_FIELDS(SIZE, ARRAY) \\
  ${fields.join(' \\\n  ')}

typedef struct {
#define SIZE(name) int name;
#define ARRAY(type, name) type *name;
  BLOCK_FIELDS(SIZE, ARRAY)
#undef SIZE
#undef ARRAY
} Block;

/* OPERATION(name, number of arguments, result, parameters, how a binding reads the arguments) */
#define OPERATIONS(OPERATION) \\
${lines.join(' \\\n')}

#ifdef SUFFIX
#define OPERATION_NAME_(name, suffix) name##suffix
#define OPERATION_NAME(name, suffix) OPERATION_NAME_(name, suffix)
#define OPERATION(name, count, result, parameters, call) result OPERATION_NAME(name, SUFFIX) parameters;
OPERATIONS(OPERATION)
#undef OPERATION
#endif
`;
}
