/** The structure of the source: rooms stand above each other, and imports point down. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path/posix';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));

/** From the top down. A file belongs to the room with the longest prefix of its path. */
const ROOMS = [
  'src/cli.ts',
  'src/main.ts',
  'src/worker.ts',
  'src/http/app.ts',
  'src/http/routes/',
  'src/http/plugins/',
  'src/http/',
  'src/store/',
  'src/engine/',
  'src/cluster/',
  'src/solver/',
  'src/pool/',
  'src/request/',
  'src/wire/',
  'src/wire/tree/',
  'src/',
  'workers/worker.ts',
  'workers/tasks/',
  'workers/wasm.ts',
  'workers/kernels/sampled/',
  'workers/kernels/low-rank/',
  'workers/kernels/low-rank/plan/',
  'workers/kernels/low-rank/error/',
  'workers/kernels/low-rank/chain/',
  'workers/kernels/low-rank/head/',
  'workers/kernels/low-rank/features/',
  'workers/kernels/low-rank/arithmetic/',
  'workers/kernels/exact/',
  'workers/kernels/reference/',
  'workers/kernels/attention/',
  'workers/kernels/estimate/',
  'workers/kernels/inner/',
  'workers/kernels/',
  'workers/',
  'workers/tensor/',
  'workers/package-file.ts',
];

/** What the layers above may import of workers/: the doors. */
const DOORS_OF_SRC =
  /^workers\/(job|mask|problem|board|team|timeslice|package-file)\.ts$|^workers\/(tasks|tensor|kernels)\//;

const files = ['src', 'workers'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.includes('assembly/'))
    .map((file) => join(folder, file.replaceAll('\\', '/'))),
);

const imports = new Map(files.map((file) => [file, importsOf(file)]));

function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8');
  const specifiers = text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*'(\.[^']+)\.js'/g);
  return [...specifiers].map(([, path]) => `${normalize(join(dirname(file), path))}.ts`);
}

function room(file: string): number {
  const prefixes = ROOMS.filter((prefix) => file.startsWith(prefix));
  return ROOMS.indexOf(prefixes.sort((a, b) => b.length - a.length)[0]!);
}

function arrows(wrong: (from: string, to: string) => boolean): string[] {
  return [...imports].flatMap(([from, to]) =>
    to.filter((target) => wrong(from, target)).map((target) => `${from} -> ${target}`),
  );
}

test('there are files to look at, and every import is one of them', () => {
  assert.ok(files.length > 150);
  assert.deepEqual(
    arrows((_, to) => !imports.has(to) && !to.endsWith('.d.ts')),
    [],
  );
});

test('no import points up', () => {
  assert.deepEqual(
    arrows((from, to) => room(to) < room(from)),
    [],
  );
});

test('src enters workers by its doors only', () => {
  assert.deepEqual(
    arrows(
      (from, to) => from.startsWith('src/') && to.startsWith('workers/') && !DOORS_OF_SRC.test(to),
    ),
    [],
  );
});

test('no file imports itself by way of others', () => {
  const circles: string[] = [];
  const state = new Map<string, 'open' | 'done'>();
  const visit = (file: string, path: readonly string[]): void => {
    if (state.get(file) === 'open') {
      circles.push([...path.slice(path.indexOf(file)), file].join(' -> '));
    }
    if (state.has(file)) return;
    state.set(file, 'open');
    for (const next of imports.get(file) ?? []) visit(next, [...path, file]);
    state.set(file, 'done');
  };
  for (const file of files) visit(file, []);
  assert.deepEqual(circles, []);
});
