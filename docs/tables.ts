/** Tables of the documentation that are made of the code: npm run docs writes them, a test compares. */

import { PROBLEMS, type ProblemKind, problemType } from '../src/problem-kinds.js';
import { SETTINGS } from '../src/settings.js';

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

export function settingsTable(): string {
  return table(
    ['variable', 'default', 'meaning'],
    SETTINGS.map(([name, setting]) => [
      `\`${name}\``,
      setting.default === '' ? '' : `\`${setting.default}\``,
      setting.description,
    ]),
  );
}

export function problemsTable(): string {
  return table(
    ['type', 'status', 'title', 'what to do'],
    (Object.keys(PROBLEMS) as ProblemKind[]).map((kind) => {
      const { status, title, remedy } = PROBLEMS[kind];
      return [`\`${problemType(kind)}\``, String(status), title, remedy];
    }),
  );
}

/** Which file holds which table, between `<!-- name -->` and `<!-- /name -->`. */
export const TABLES = [
  { file: 'docs/operations.md', name: 'settings', make: settingsTable },
  { file: 'docs/problems.md', name: 'problems', make: problemsTable },
] as const;

/** @throws {Error} when the text has no such markers. */
export function withTable(text: string, name: string, content: string): string {
  const [open, close] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [start, end] = [text.indexOf(open), text.indexOf(close)];
  if (start < 0 || end < start) throw new Error(`There is no place for the table ${name}`);
  return `${text.slice(0, start + open.length)}\n${content}\n${text.slice(end)}`;
}
