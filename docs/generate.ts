/** Writes what the documentation takes from the code, tables and pictures: npm run docs. */
import { readFileSync, writeFileSync } from 'node:fs';
import { PICTURES } from './pictures.js';
import { TABLES, withTable } from './tables.js';

const root = new URL('../../', import.meta.url);

for (const { file, name, make } of TABLES) {
  const path = new URL(file, root);
  writeFileSync(path, withTable(readFileSync(path, 'utf8'), name, make()));
}
for (const { file, make } of PICTURES) writeFileSync(new URL(file, root), make());
