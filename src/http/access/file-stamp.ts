/** Whether a file is still the one that was read. */
import { statSync } from 'node:fs';

/**
 * Another one for every change. Not the time of modification: that can be set, so that a file which takes the place of another may have
 * the same (images and package managers give all files one).
 *
 * @throws {Error} when there is no such file.
 */
export function stampOf(file: string): string {
  const { ino, ctimeMs, size } = statSync(file);
  return `${ino} ${ctimeMs} ${size}`;
}
