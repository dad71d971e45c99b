/** The version of the service, as its package says. */
import { readFileSync } from 'node:fs';
import { packageFile } from '../workers/package-file.js';

export function packageVersion(): string {
  return (JSON.parse(readFileSync(packageFile('package.json'), 'utf8')) as { version: string })
    .version;
}
