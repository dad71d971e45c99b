/**
 * Bundles what each thread loads, packages included: hundreds of small modules take longer to find and to read than to run.
 * What tests and benchmarks need beside stays as it was compiled, one by one.
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

/** Loaded from where npm put them: these start threads, or serve files that lie beside them. */
const OTHER_PACKAGES = ['@fastify/swagger-ui', 'pino', 'pino-pretty', 'piscina'];

/**
 * BullMQ only packs. The main module of msgpackr installs a native reader in `unpack`, which reads bodies here; on shared
 * memory that reader crashes the process.
 */
const ALIAS = [{ find: /^msgpackr$/, replacement: 'msgpackr/pack' }];

const { output } = await build({
  configFile: false,
  root: ROOT,
  logLevel: 'warn',
  publicDir: false,
  resolve: { alias: ALIAS },
  ssr: { external: OTHER_PACKAGES, noExternal: true },
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
