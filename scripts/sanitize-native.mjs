/**
 * The test of the operations on builds with AddressSanitizer and UndefinedBehaviorSanitizer: random calls, drawn as
 * in test/kernels/inner/operations.test.ts, go through native/test/replay.c and are compared with the same loops.
 * Needs a C compiler (CC) with both and what npm run build makes; fails without.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expected } from '../dist/test/kernels/inner/loops.js';
import { difference, drawCall, drawFrom } from '../dist/workers/kernels/inner/call.js';
import { nativeFiles } from '../dist/workers/kernels/inner/native.js';
import { OPERATIONS } from '../dist/workers/kernels/inner/operations/operations.js';
import { STAGES } from '../dist/workers/kernels/inner/operations/stages.js';
import { Random } from '../dist/workers/kernels/random.js';
import { FLAGS, SETS } from './build-native.mjs';
import { ROOT } from './make.mjs';

const ROUNDS = 40;
const SANITIZE = ['-O1', '-g', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'];
const TYPES = { f32: Float32Array, f64: Float64Array, i32: Int32Array };
const DECLARED = { ...OPERATIONS, ...STAGES };
const NAMES = Object.keys(DECLARED);
const KINDS = { array: 1, struct: 2 };

const int32 = (x) => Buffer.from(Int32Array.of(x).buffer);
const double = (x) => Buffer.from(Float64Array.of(x).buffer);
const bytesOf = (x) => Buffer.from(x.buffer, x.byteOffset, x.byteLength);

/** A list of operands: its length, then each with its kind. */
function written(list, call) {
  const all = list.map((one) => {
    const kind = KINDS[one.kind] ?? 0;
    if (kind === 2) return [int32(kind), written(one.fields, call)];
    if (kind === 0) return [int32(kind), double(call.numbers[one.name])];
    const array = bytesOf(call.arrays[one.name]);
    return [int32(kind), int32(array.length), array];
  });
  return Buffer.concat([int32(list.length), ...all.flat()]);
}

const arraysOf = (list) =>
  list.flatMap((one) =>
    one.kind === 'struct' ? arraysOf(one.fields) : one.kind === 'array' ? [one] : [],
  );

/** Reads what replay.c writes after a call. */
function outcomeOf(call, output, at) {
  const returned = output.readDoubleLE(at);
  let from = at + 8;
  const arrays = {};
  for (const { name, type } of arraysOf(DECLARED[call.name].arguments)) {
    const { byteLength } = call.arrays[name];
    arrays[name] = new TYPES[type](new Uint8Array(output.subarray(from, from + byteLength)).buffer);
    from += byteLength;
  }
  return { outcome: { returned, arrays, damaged: [] }, next: from };
}

/**
 * @param ofSet flags of the compiler, for vectors of this set.
 * @throws {Error} when the compiler or a sanitizer complains, or a result is wrong.
 */
function check(set, ofSet, folder, seed) {
  const sources = readdirSync(join(ROOT, 'native/src')).filter(
    (file) => file.endsWith('.c') && file !== 'addon.c',
  );
  const files = [...sources.map((file) => `native/src/${file}`), 'native/test/replay.c'];
  const program = join(folder, 'replay');
  const includes = ['-Inative/include', '-Idist/native'];
  const [compiler, ...first] = (process.env.CC ?? 'cc').split(' ');
  const flags = [...FLAGS, ...SANITIZE, ...ofSet, '-DSUFFIX=_test'];
  execFileSync(compiler, [...first, ...flags, ...includes, ...files, '-o', program, '-lm'], {
    cwd: ROOT,
    stdio: 'inherit',
  });

  const draw = drawFrom(new Random(seed));
  const calls = NAMES.flatMap((name) => Array.from({ length: ROUNDS }, () => drawCall(name, draw)));
  const input = Buffer.concat(
    calls.flatMap((call) => [
      int32(NAMES.indexOf(call.name)),
      written(DECLARED[call.name].arguments, call),
    ]),
  );
  const { status, stdout, stderr } = spawnSync(program, { input, maxBuffer: 2 ** 30 });
  if (status !== 0) throw new Error(`${set}: ${stderr}`);
  let at = 0;
  for (const call of calls) {
    const { outcome, next } = outcomeOf(call, stdout, at);
    const wrong = difference(call, outcome, expected);
    if (wrong) throw new Error(`${set}: ${wrong}`);
    at = next;
  }
  console.log(
    `${set}: ${calls.length} calls of ${NAMES.length} operations, nothing to complain about`,
  );
}

const built = nativeFiles().flatMap(({ builds }) => builds);
if (built.length === 0) throw new Error('npm run build made no native kernels');
const sets = Object.fromEntries(built.map((set) => [set, SETS[process.arch][set]]));
// Of a processor without AVX-512 its code is tested all the same, on two registers for one.
if (sets.avx2 && !sets.avx512)
  sets['avx512, by way of avx2'] = [...sets.avx2, '-DW=16', '-Wno-psabi'];
const folder = mkdtempSync(join(tmpdir(), 'loragrad-'));
const seed = Number(process.env.LORAGRAD_TEST_SEED ?? Date.now() % 2 ** 31);
console.log(`LORAGRAD_TEST_SEED=${seed}`);
try {
  for (const [set, flags] of Object.entries(sets)) check(set, flags, folder, seed);
} finally {
  rmSync(folder, { recursive: true });
}
