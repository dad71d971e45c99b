/** Norms of heads against those of another kernel. */
import assert from 'node:assert/strict';
import type { HeadNorms } from '../../workers/kernels/result.js';

/** Head by head: the largest of many must not hide that heads were mixed up. */
export function assertNorms(shown: HeadNorms, expected: HeadNorms, where: string): void {
  assert.equal(shown.length, expected.length, where);
  for (const [head, norms] of expected.entries()) {
    for (const [name, value] of Object.entries(norms)) {
      const found = shown[head][name as keyof typeof norms];
      const near = Math.abs(found - value) <= 1e-5 * value;
      assert.ok(near, `${name} of head ${head}: ${found} for ${value}, ${where}`);
    }
  }
}
