/** What `make` does: an output that is newer than everything it is made of is left as it is. */
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** Folders with nothing in them that is compiled. */
const IGNORED = new Set(['node_modules', '__pycache__', 'fixtures']);

/**
 * When a file or anything in a folder changed last, ms. A folder itself counts too: its time tells of files
 * that were deleted. 0 when there is no such path.
 */
function changed(path) {
  if (!existsSync(path)) return 0;
  const stat = statSync(path);
  if (!stat.isDirectory()) return stat.mtimeMs;
  const inside = readdirSync(path).filter((name) => !IGNORED.has(name));
  return Math.max(stat.mtimeMs, ...inside.map((name) => changed(join(path, name))));
}

/** @param inputs files and folders, from the root of the repository. */
export function upToDate(output, inputs) {
  const made = changed(join(ROOT, output));
  return made > 0 && inputs.every((input) => changed(join(ROOT, input)) <= made);
}

/** Made by other tools than the compiler. */
const BUNDLED = new Set(['chunks', 'web', 'guide'].map((name) => join('dist', name)));

/** Removes compiled modules of which the source is gone: tests would go on to run. */
export function prune(folder = 'dist') {
  for (const entry of readdirSync(join(ROOT, folder), { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (BUNDLED.has(path)) continue;
    if (entry.isDirectory()) prune(path);
    const module = /^(.*?)\.(?:js|d\.ts|js\.map)$/.exec(entry.name);
    if (!module) continue;
    const source = join(dirname(path).slice('dist'.length), `${module[1]}.ts`);
    if (!existsSync(join(ROOT, source))) rmSync(join(ROOT, path));
  }
}
