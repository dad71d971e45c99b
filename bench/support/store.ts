/** results.json, and the files made of it. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Question, Results } from '../question.js';
import { report } from '../report.js';

const FILE = 'benchmarks/results.json';

export function readResults(folder: string): Results {
  const path = join(folder, FILE);
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Results) : {};
}

export function writeResults(folder: string, results: Results): void {
  write(join(folder, FILE), serialise(results));
}

export function writeReport(
  folder: string,
  results: Results,
  questions: readonly Question[],
): string[] {
  return report(results, questions).map(({ path, content }) => {
    write(join(folder, path), content);
    return join(folder, path);
  });
}

function write(path: string, content: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}

/** Fractions to six digits, the numbers of a list on one line: a file whose changes can be read. */
export function serialise(results: Results): string {
  const rounded = (_: string, value: unknown) =>
    typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value;
  const text = JSON.stringify(results, rounded, 1);
  return `${text.replace(/\[[-+.\deE,\s]+\]/g, (list) => list.replace(/\s+/g, ' '))}\n`;
}
