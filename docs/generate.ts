/** Writes the tables of the documentation: npm run docs. */
import { readFileSync, writeFileSync } from 'node:fs';
import { TABLES, withTable } from './tables.js';

for (const { file, name, make } of TABLES) {
  const path = new URL(`../../${file}`, import.meta.url);
  writeFileSync(path, withTable(readFileSync(path, 'utf8'), name, make()));
}
