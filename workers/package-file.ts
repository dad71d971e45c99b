/** Where files of this package lie: however modules are bundled, package.json stands at its root. */
import { existsSync } from 'node:fs';

function packageRoot(): URL {
  let folder = new URL('.', import.meta.url);
  while (!existsSync(new URL('package.json', folder))) folder = new URL('..', folder);
  return folder;
}

const root = packageRoot();

/** @param path from the root of the package. */
export const packageFile = (path: string): URL => new URL(path, root);
