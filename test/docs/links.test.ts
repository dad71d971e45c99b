/** Links of the documents lead somewhere: to a file, and to a heading or an anchor in it. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const below = (folder: string) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.md') && !file.includes('node_modules'))
    .map((file) => join(folder, file));
const DOCUMENTS = ['README.md', 'CONTRIBUTING.md', ...below('docs'), ...below('clients')];

/** As GitHub and the documentation site make them of headings. */
function slug(heading: string): string {
  const words = heading.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, '');
  return words.trim().replace(/\s/g, '-');
}

function anchors(text: string): Set<string> {
  const headings = [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => slug(heading));
  const ids = [...text.matchAll(/<a id="([^"]+)"/g)].map(([, id]) => id);
  return new Set([...headings, ...ids]);
}

for (const document of DOCUMENTS) {
  test(`links of ${document}`, () => {
    const text = readFileSync(join(root, document), 'utf8');
    const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link);
    for (const link of links.filter((one) => !/^(https?|mailto):/.test(one))) {
      const [path, anchor] = link.split('#');
      const target = path ? join(root, dirname(document), path) : join(root, document);
      assert.ok(existsSync(target), link);
      assert.ok(!relative(root, target).startsWith('..'), `${link} is outside the repository`);
      if (anchor) assert.ok(anchors(readFileSync(target, 'utf8')).has(anchor), link);
    }
  });
}
