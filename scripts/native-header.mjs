/** operations.h: the C declarations of the operations of workers/kernels/inner/operations/. */

const C_TYPES = { f32: 'float', f64: 'double', i32: 'int32_t' };

/** The type of a structure: block is a Block. */
const typeOf = (name) => name[0].toUpperCase() + name.slice(1);

/** Names of arguments as C has them. */
const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

function parameter({ kind, name, type, access }) {
  if (kind === 'struct') return `const ${typeOf(name)} *${name}`;
  if (kind === 'array')
    return `${access === 'read' ? 'const ' : ''}${C_TYPES[type]} *${snake(name)}`;
  return `${C_TYPES[kind] ?? 'int'} ${snake(name)}`;
}

const READERS = { array: 'AT_ARRAY', size: 'AT_SIZE', flag: 'AT_FLAG' };
const reader = ({ kind, name }, i) =>
  kind === 'struct' ? `AT_STRUCT(${typeOf(name)}, ${i})` : `${READERS[kind] ?? 'AT_NUMBER'}(${i})`;

const fieldOf = ({ kind, type, name }) =>
  kind === 'array'
    ? `ARRAY(${C_TYPES[type]}, ${snake(name)})`
    : `NUMBER(${C_TYPES[kind] ?? 'int'}, ${snake(name)})`;

/** The fields of a structure, and the type of the words that it comes in. */
const structure = ({ name, words, fields }) =>
  `#define FIELDS_OF_${typeOf(name)}(NUMBER, ARRAY) \\
  ${fields.map(fieldOf).join(' \\\n  ')}

typedef ${C_TYPES[words]} WordOf${typeOf(name)};
typedef struct {
  FIELDS_OF_${typeOf(name)}(NUMBER_FIELD, ARRAY_FIELD)
} ${typeOf(name)};
`;

export function operationsHeader(operations) {
  const all = Object.entries(operations);
  const structs = new Map(
    all
      .flatMap(([, one]) => one.arguments)
      .filter(({ kind }) => kind === 'struct')
      .map((struct) => [struct.name, struct]),
  );
  const lines = all.map(([name, { arguments: list, returns }]) => {
    const parameters = list.map(parameter).join(', ');
    const call = list.map(reader).join(', ');
    return `  OPERATION(${name}, ${list.length}, ${returns ? 'float' : 'void'}, (${parameters}), (${call}))`;
  });
  return `/* Made by scripts/native-header.mjs of workers/kernels/inner/operations/; do not edit. */
#pragma once
#include <stdint.h>

#define NUMBER_FIELD(type, name) type name;
#define ARRAY_FIELD(type, name) type *name;
${[...structs.values()].map(structure).join('\n')}
#define STRUCTS(STRUCT) ${[...structs.keys()].map((name) => `STRUCT(${typeOf(name)})`).join(' ')}

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
