/**
 * Puts what each thread loads into few files: hundreds of small modules take longer to find and to read than to run. What
 * tests and benchmarks need beside stays as it was compiled, one by one.
 */
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'vite';
import { ROOT } from './make.mjs';

/** Their modules are replaced by bundles: where threads begin, and where tests and scripts enter the service. */
const ENTRIES = [
  ...['src/cli', 'src/main', 'src/worker', 'src/engine/engine-thread', 'workers/worker'],
  ...['src/config', 'src/errors', 'src/engine/engine', 'src/http/app'],
];

/** All others are loaded from where npm put them. These are hundreds of modules, or loaded by every worker thread. */
const BUNDLED_PACKAGES = ['typebox', 'ml-matrix'];

const { output } = await build({
  configFile: false,
  root: ROOT,
  logLevel: 'warn',
  publicDir: false,
  ssr: { external: true, noExternal: BUNDLED_PACKAGES },
  build: {
    ssr: true,
    target: 'es2023',
    outDir: 'dist',
    emptyOutDir: false,
    minify: false,
    sourcemap: true,
    rolldownOptions: {
      input: Object.fromEntries(ENTRIES.map((name) => [name, join(ROOT, `${name}.ts`)])),
      output: {
        entryFileNames: '[name].js',
        chunkFileNames: 'chunks/[name].js',
        topLevelVar: false,
      },
    },
  },
});
// Chunks of other builds would go with the package.
const made = new Set(output.map(({ fileName }) => fileName));
for (const name of readdirSync(join(ROOT, 'dist/chunks'))) {
  if (!made.has(`chunks/${name}`)) rmSync(join(ROOT, 'dist/chunks', name));
}
