/**
 * Compiles native/src for this machine with whatever C compiler there is; CC names another ("clang-19", "zig cc").
 * Never ends the build: without a compiler, or when what was built does not load, the service takes the addon that
 * came with the package, or WebAssembly.
 */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ROOT, upToDate } from './make.mjs';
import { operationsHeader } from './native-header.mjs';

const SOURCES = join(ROOT, 'native/src');
const INCLUDE = join(ROOT, 'native/include');
const FOLDER = join(ROOT, 'dist/native');
const HEADER = 'dist/native/operations.h';
const OUTPUT = 'dist/native/kernels.node';

/** Flags by name and not by level: gcc before 11 and clang before 12 do not know x86-64-v4. */
const AVX2 = ['-mfma', '-mavx2', '-mbmi', '-mbmi2'];
const AVX512 = ['f', 'bw', 'dq', 'vl', 'cd'].map((set) => `-mavx512${set}`);
export const SETS = {
  x64: { avx512: [...AVX2, ...AVX512, '-mprefer-vector-width=512'], avx2: AVX2 },
  arm64: { neon: [] },
};

export const FLAGS = [
  ...['-std=gnu11', '-O3', '-fPIC', '-fvisibility=hidden', '-Wall', '-Wextra', '-DNAPI_VERSION=8'],
  ...['-ffp-contract=fast', '-fno-math-errno', '-fno-trapping-math'],
];

/** @throws {Error} with the compiler's first complaint. */
function run(compiler, args) {
  const [command, ...first] = compiler.split(' ');
  const { status, error, stderr } = spawnSync(command, [...first, ...args], { encoding: 'utf8' });
  if (error) throw new Error(`${compiler}: ${error.code}`);
  if (status === 0) return;
  const line = stderr.split('\n').find((text) => text.includes('error')) ?? stderr.slice(0, 200);
  throw new Error(`${compiler}: ${line}`);
}

/** Writes operations.h where it is not there already. */
export async function writeHeader() {
  const compiled = (name) =>
    pathToFileURL(join(ROOT, `dist/workers/kernels/inner/operations/${name}.js`));
  const { OPERATIONS } = await import(compiled('operations'));
  const { STAGES } = await import(compiled('stages'));
  const text = operationsHeader({ ...OPERATIONS, ...STAGES });
  const path = join(ROOT, HEADER);
  mkdirSync(FOLDER, { recursive: true });
  if (!existsSync(path) || readFileSync(path, 'utf8') !== text) writeFileSync(path, text);
}

/**
 * One addon with an object of every source for each instruction set of the architecture.
 *
 * @throws {Error} when the compiler fails.
 */
export function compileAddon({ compiler, arch, platform, output, flags = [], link = [] }) {
  const folder = mkdtempSync(join(FOLDER, 'objects-'));
  const include = createRequire(import.meta.url)('node-api-headers').include_dir;
  const objects = [];
  const compile = (file, name, more) => {
    const object = join(folder, `${name}.o`);
    const includes = [`-I${INCLUDE}`, `-I${FOLDER}`, '-isystem', include];
    run(compiler, [
      ...FLAGS,
      ...flags,
      ...includes,
      ...more,
      '-c',
      join(SOURCES, file),
      '-o',
      object,
    ]);
    objects.push(object);
  };
  try {
    const files = readdirSync(SOURCES).filter((file) => file.endsWith('.c') && file !== 'addon.c');
    for (const [set, ofSet] of Object.entries(SETS[arch])) {
      for (const file of files) compile(file, `${file}.${set}`, [...ofSet, `-DSUFFIX=_${set}`]);
    }
    compile('addon.c', 'addon', []);
    const undefined_ = platform === 'darwin' ? ['-undefined', 'dynamic_lookup'] : [];
    const made = join(folder, 'made.node');
    run(compiler, ['-shared', ...flags, ...undefined_, ...link, '-o', made, ...objects, '-lm']);
    // At once: a running service may have the old one in memory.
    renameSync(made, output);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** In a process of its own: a broken library must not end the build. */
function buildsIn(path) {
  const script = 'process.stdout.write(require(process.argv[1]).builds.join(", "))';
  const { status, stdout } = spawnSync(process.execPath, ['-e', script, path], {
    encoding: 'utf8',
  });
  return status === 0 ? stdout : null;
}

/** @returns a sentence about what came of it; null: it was there already. */
export async function buildNative() {
  await writeHeader();
  const inputs = ['native/src', 'native/include', HEADER, 'scripts/build-native.mjs'];
  if (upToDate(OUTPUT, inputs)) return null;
  const { arch, platform } = process;
  if (!SETS[arch] || platform === 'win32')
    return 'No native kernels for this platform: WebAssembly';
  const complaints = [];
  for (const compiler of process.env.CC ? [process.env.CC] : ['cc', 'clang', 'gcc']) {
    try {
      const output = join(ROOT, OUTPUT);
      compileAddon({ compiler, arch, platform, output });
      const builds = buildsIn(output);
      if (builds !== null)
        return `Native kernels, built with ${compiler}, for this machine: ${builds}`;
      rmSync(output);
      complaints.push(`${compiler}: what it made does not load`);
    } catch (error) {
      complaints.push(error.message);
    }
  }
  return `No native kernels, WebAssembly it is (${complaints.join('; ')})`;
}
