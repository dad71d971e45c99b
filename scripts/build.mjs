/**
 * npm run build: what is newer than its sources stays as it is, and nothing is deleted that a running service
 * may load.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildNative } from './build-native.mjs';
import { clientTypes } from './client-types.mjs';
import { prune, ROOT, upToDate } from './make.mjs';

const INNER = 'workers/kernels/inner';

/** Runs a program in a process of its own; ends the build when it fails. */
function run(program, args = []) {
  const file = join(ROOT, program);
  const { status } = spawnSync(process.execPath, [file, ...args], { cwd: ROOT, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

function compileClient() {
  const folder = 'clients/typescript';
  const inputs = [
    `${folder}/src`,
    `${folder}/tsconfig.json`,
    `${folder}/package.json`,
    'workers/tensor',
    'openapi/openapi.json',
  ];
  if (upToDate(`${folder}/dist/.compiled`, inputs)) return;
  const document = readFileSync(join(ROOT, 'openapi/openapi.json'), 'utf8');
  writeFileSync(join(ROOT, folder, 'src/api.ts'), clientTypes(document));
  run('node_modules/typescript/bin/tsc', ['-p', folder]);
  writeFileSync(join(ROOT, folder, 'dist/.compiled'), '');
}

function compileTypeScript() {
  const stamp = 'dist/.compiled';
  const { include } = JSON.parse(readFileSync(join(ROOT, 'tsconfig.json'), 'utf8'));
  const inputs = include.map((pattern) => pattern.replace('/*.ts', ''));
  if (upToDate(stamp, [...inputs, 'scripts/bundle.mjs', 'tsconfig.json', 'package.json'])) return;
  run('node_modules/typescript/bin/tsc', ['-p', 'tsconfig.json']);
  prune();
  run('scripts/bundle.mjs');
  writeFileSync(join(ROOT, stamp), '');
}

function bundlePage() {
  const inputs = ['web', 'clients/typescript/src', 'workers/tensor', 'package-lock.json'];
  if (upToDate('dist/web/index.html', inputs)) return;
  run('node_modules/vite/bin/vite.js', [
    'build',
    '--config',
    'web/vite.config.ts',
    '--logLevel',
    'warn',
  ]);
}

function compileAssemblyScript() {
  const config = `${INNER}/asconfig.json`;
  const { targets } = JSON.parse(readFileSync(join(ROOT, config), 'utf8'));
  for (const target of Object.keys(targets)) {
    if (upToDate(`dist/${INNER}/${target}.wasm`, [`${INNER}/assembly`, config])) continue;
    run('node_modules/assemblyscript/bin/asc.js', ['--config', config, '--target', target]);
  }
}

if (!existsSync(join(ROOT, 'node_modules', 'typescript'))) {
  console.error(
    'Run npm ci first: what compiles the service is among its development dependencies.',
  );
  process.exit(1);
}
compileClient();
compileTypeScript();
bundlePage();
compileAssemblyScript();
const native = await buildNative();
if (native) console.log(native);
