/*
 * Calls operations with every array in memory of its own, so that AddressSanitizer sees each read and write beyond
 * an end. Reads calls from standard input and writes the arrays and the result of each to standard output; the
 * format is that of scripts/sanitize-native.mjs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operations.h"

enum { NUMBER, ARRAY, STRUCT };
enum { MOST_OPERANDS = 96 };

typedef struct {
  int32_t kind, bytes;
  double number;
  void *array; /* NULL: absent */
} Operand;

static Operand arguments[MOST_OPERANDS], fields[MOST_OPERANDS];

static int get(void *to, size_t bytes) { return bytes == 0 || fread(to, 1, bytes, stdin) == bytes; }

static void put(const void *from, size_t bytes) {
  if (bytes && fwrite(from, 1, bytes, stdout) != bytes) exit(1);
}

static void read_operands(Operand *to) {
  int32_t count;
  if (!get(&count, 4) || count > MOST_OPERANDS) exit(1);
  for (Operand *one = to; one < to + count; one++) {
    if (!get(&one->kind, 4)) exit(1);
    if (one->kind == STRUCT) read_operands(fields);
    if (one->kind == NUMBER && !get(&one->number, 8)) exit(1);
    if (one->kind != ARRAY) continue;
    if (!get(&one->bytes, 4)) exit(1);
    one->array = one->bytes ? malloc(one->bytes) : NULL;
    if (!get(one->array, one->bytes)) exit(1);
  }
  if (count < MOST_OPERANDS) to[count].kind = -1;
}

static void write_arrays(Operand *from) {
  for (Operand *one = from; one < from + MOST_OPERANDS && one->kind >= 0; one++) {
    if (one->kind == STRUCT) write_arrays(fields);
    if (one->kind != ARRAY) continue;
    put(one->array, one->bytes);
    free(one->array);
  }
}

#define NUMBER(type, name) to->name = (type)field++->number;
#define ARRAY(type, name) to->name = field++->array;
#define STRUCT(type)                            \
  static const type *read_##type(type *to) {    \
    const Operand *field = fields;              \
    FIELDS_OF_##type(NUMBER, ARRAY)             \
    return to;                                  \
  }
STRUCTS(STRUCT)
#undef STRUCT
#undef NUMBER
#undef ARRAY

#define AT_SIZE(i) ((int)arguments[i].number)
#define AT_FLAG(i) AT_SIZE(i)
#define AT_NUMBER(i) arguments[i].number
#define AT_ARRAY(i) arguments[i].array
#define AT_STRUCT(type, i) read_##type(&(type){0})
#define RESULT_void(call) (call, 0)
#define RESULT_float(call) call

int main(void) {
  int32_t wanted;
  while (get(&wanted, 4)) {
    int32_t index = 0;
    double result = 0;
    read_operands(arguments);
#define OPERATION(name, count, type, parameters, call) \
  if (index++ == wanted) result = RESULT_##type(OPERATION_NAME(name, SUFFIX) call);
    OPERATIONS(OPERATION)
#undef OPERATION
    put(&result, 8);
    write_arrays(arguments);
  }
  return 0;
}
