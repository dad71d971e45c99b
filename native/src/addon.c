/*
 * The Node-API face of the operations: bind(build, memory) gives functions of the names and arguments that the
 * exports of the WebAssembly modules have, on the memory that they were bound to. Nothing here is shared by threads.
 */
#include <node_api.h>
#include <stdlib.h>
#include <string.h>

#include "operations.h"
#include "processor.h"

typedef struct {
#define OPERATION(name, count, result, parameters, call) result(*name) parameters;
  OPERATIONS(OPERATION)
#undef OPERATION
} Build;

/* The operations of each instruction set: their declarations and the table of them. */
#if defined(__x86_64__)
#define OPERATION(name, count, result, parameters, call) \
  result name##_avx512 parameters;                       \
  result name##_avx2 parameters;
OPERATIONS(OPERATION)
#undef OPERATION
#define OPERATION(name, count, result, parameters, call) name##_avx512,
static const Build AVX512 = {OPERATIONS(OPERATION)};
#undef OPERATION
#define OPERATION(name, count, result, parameters, call) name##_avx2,
static const Build AVX2 = {OPERATIONS(OPERATION)};
#undef OPERATION
#else
#define OPERATION(name, count, result, parameters, call) result name##_neon parameters;
OPERATIONS(OPERATION)
#undef OPERATION
#define OPERATION(name, count, result, parameters, call) name##_neon,
static const Build NEON = {OPERATIONS(OPERATION)};
#undef OPERATION
#endif

#if defined(__x86_64__)
double peak_avx512(long), peak_avx2(long);
#else
double peak_neon(long);
#endif

static const struct {
  const char *name;
  const Build *build;
  int (*runs_here)(void);
  double (*peak)(long rounds);
} BUILDS[] = {
#if defined(__x86_64__)
    {"avx512", &AVX512, has_avx512, peak_avx512},
    {"avx2", &AVX2, has_avx2, peak_avx2},
#else
    {"neon", &NEON, has_neon, peak_neon},
#endif
};
enum { BUILD_COUNT = sizeof BUILDS / sizeof *BUILDS };

/* One binding: a build and a memory. */
typedef struct {
  const Build *build;
  char *memory;
} Binding;

enum { MOST_ARGUMENTS = 24 };

typedef struct {
  napi_env env;
  Binding *binding;
  napi_value values[MOST_ARGUMENTS];
} Call;

static void begin(napi_env env, napi_callback_info info, size_t count, Call *call) {
  call->env = env;
  napi_get_cb_info(env, info, &count, call->values, NULL, (void **)&call->binding);
}

static double number(Call *call, int i) {
  double x = 0;
  napi_get_value_double(call->env, call->values[i], &x);
  return x;
}

static int flag(Call *call, int i) {
  bool yes = false;
  if (napi_get_value_bool(call->env, call->values[i], &yes) == napi_ok) return yes;
  return number(call, i) != 0;
}

/* Addresses from here on are those of arrays anywhere, as `address` gives them: below, of the build's own memory. */
static const double ELSEWHERE = 0x1p50;

static void *place(Call *call, double at) {
  return at < ELSEWHERE ? call->binding->memory + (uint32_t)(int64_t)at : (char *)(uintptr_t)(at - ELSEWHERE);
}

static void *address(Call *call, int i) { return place(call, number(call, i)); }

#define NUMBER(type, name) to->name = (type)*word++;
/* Absent arrays have address 0. */
#define ARRAY(type, name) \
  to->name = *word == 0 ? NULL : place(call, *word); \
  word++;
#define STRUCT(type)                                              \
  static const type *read_##type(Call *call, int i, type *to) {   \
    const WordOf##type *word = address(call, i);                  \
    FIELDS_OF_##type(NUMBER, ARRAY)                               \
    return to;                                                    \
  }
STRUCTS(STRUCT)
#undef STRUCT
#undef NUMBER
#undef ARRAY

static napi_value nothing(napi_env env) {
  (void)env;
  return NULL;
}

static napi_value number_value(napi_env env, double x) {
  napi_value value;
  napi_create_double(env, x, &value);
  return value;
}

#define RETURN_void(env, call) return (call, nothing(env));
#define RETURN_float(env, call) return number_value(env, call);
#define AT_SIZE(i) ((int)number(&call, i))
#define AT_FLAG(i) flag(&call, i)
#define AT_NUMBER(i) number(&call, i)
#define AT_ARRAY(i) address(&call, i)
#define AT_STRUCT(type, i) read_##type(&call, i, &(type){0})
#define OPERATION(name, count, result, parameters, arguments)                 \
  static napi_value call_##name(napi_env env, napi_callback_info info) {      \
    Call call;                                                                \
    begin(env, info, count, &call);                                           \
    RETURN_##result(env, call.binding->build->name arguments)                 \
  }
OPERATIONS(OPERATION)
#undef OPERATION

static napi_value attach(napi_env env, napi_callback_info info) {
  Call call;
  size_t size;
  begin(env, info, 1, &call);
  if (napi_get_arraybuffer_info(env, call.values[0], (void **)&call.binding->memory, &size) != napi_ok)
    napi_throw_type_error(env, NULL, "attach takes an ArrayBuffer");
  return NULL;
}

/* address(x): where a typed array lies. Good as long as x is held. */
static napi_value address_of(napi_env env, napi_callback_info info) {
  Call call;
  void *data = NULL;
  begin(env, info, 1, &call);
  napi_get_typedarray_info(env, call.values[0], NULL, NULL, &data, NULL, NULL);
  return number_value(env, data ? ELSEWHERE + (double)(uintptr_t)data : 0);
}

static void add(napi_env env, napi_value to, const char *name, napi_callback function, void *data) {
  napi_value value;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, function, data, &value);
  napi_set_named_property(env, to, name, value);
}

/* peak(rounds): multiply-adds of the widest build that runs here, and how many operations they were. */
static napi_value peak(napi_env env, napi_callback_info info) {
  Call call;
  begin(env, info, 1, &call);
  for (int k = 0; k < BUILD_COUNT; k++)
    if (BUILDS[k].runs_here()) return number_value(env, BUILDS[k].peak((long)number(&call, 0)));
  return NULL;
}

static napi_value bind(napi_env env, napi_callback_info info) {
  Call call;
  char name[16] = "";
  begin(env, info, 2, &call);
  napi_get_value_string_utf8(env, call.values[0], name, sizeof name, NULL);
  const Build *build = NULL;
  for (int k = 0; k < BUILD_COUNT; k++)
    if (BUILDS[k].runs_here() && strcmp(name, BUILDS[k].name) == 0) build = BUILDS[k].build;
  Binding *binding = malloc(sizeof *binding);
  size_t size;
  if (!build || !binding ||
      napi_get_arraybuffer_info(env, call.values[1], (void **)&binding->memory, &size) != napi_ok) {
    free(binding);
    napi_throw_type_error(env, NULL, "bind takes a build of this processor and an ArrayBuffer");
    return NULL;
  }
  binding->build = build;
  /* A function may be kept longer than the object that it came in: the binding lives as long as the thread. */
  napi_add_env_cleanup_hook(env, free, binding);
  napi_value object;
  napi_create_object(env, &object);
#define OPERATION(name, count, result, parameters, arguments) add(env, object, #name, call_##name, binding);
  OPERATIONS(OPERATION)
#undef OPERATION
  add(env, object, "attach", attach, binding);
  return object;
}

NAPI_MODULE_INIT() {
  napi_value names;
  napi_create_array(env, &names);
  uint32_t count = 0;
  for (int k = 0; k < BUILD_COUNT; k++) {
    if (!BUILDS[k].runs_here()) continue;
    napi_value name;
    napi_create_string_utf8(env, BUILDS[k].name, NAPI_AUTO_LENGTH, &name);
    napi_set_element(env, names, count++, name);
  }
  napi_set_named_property(env, exports, "builds", names);
  add(env, exports, "bind", bind, NULL);
  add(env, exports, "address", address_of, NULL);
  add(env, exports, "peak", peak, NULL);
  return exports;
}
