/**
 * Puts what each thread loads into few files: hundreds of small modules take longer to find and to read than to run. The
 * modules that threads begin with are replaced by their bundles; all others stay as they are, for tests and benchmarks.
 */
import { join } from 'node:path';
import { ROOT } from './make.mjs';

/** Where threads begin, from the root of the repository. */
const ENTRIES = ['src/cli', 'src/main', 'src/worker', 'src/engine/engine-thread', 'workers/worker'];

/** All other packages are loaded from where npm put them. This one is hundreds of modules. */
const BUNDLED_PACKAGES = ['typebox', 'ml-matrix'];

export async function bundleThreads() {
  // Not at the top: a build with nothing to do need not wait for it.
  const { build } = await import('vite');
  await build({
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
}
