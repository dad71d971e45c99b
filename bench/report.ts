/** The page and the plots that the documentation shows, made of the results and nothing else. */
import type { Question, Results, Section } from './question.js';
import { environmentLine } from './support/environment.js';
import { duration, table } from './support/format.js';

export interface ReportFile {
  /** Below docs/. */
  readonly path: string;
  readonly content: string;
}

const HEAD = `# Benchmarks

Made by \`npm run bench\`; do not edit by hand. All sides of a comparison run in the same session on the
same machine with the same number of threads and take turns, round by round; times are medians over the
rounds, after a warm-up. The rounds themselves are in [results.json](benchmarks/results.json).`;

const TAIL = `## How to reproduce

\`\`\`sh
npm ci
pip install torch                   # or: apt install python3-torch
npm run bench                       # all questions, about three quarters of an hour
npm run bench -- exact threads      # some of them; the others keep their last results
npm run bench -- exact --quick      # small sizes, written to dist/bench-quick: does it work?
npm run bench -- --report           # this page again from results.json, nothing is measured
\`\`\`

\`PYTHON\` names the interpreter that has PyTorch (\`python3\` by default); without PyTorch its columns are
missing. The PyTorch side is
[bench/torch_attention.py](../bench/torch_attention.py). Use a machine that does nothing else.`;

/** Pure: the same results give the same files. */
export function report(results: Results, questions: readonly Question[]): ReportFile[] {
  const answered = questions.filter(({ name }) => results[name]);
  const sections = new Map(answered.map((one) => [one, one.tell(results[one.name])]));
  const page = [
    HEAD,
    ...targetsTable(sections),
    ...answered.map((one) => chapter(one, results, sections.get(one)!)),
    TAIL,
  ];
  const plots = [...sections.values()].flatMap((section) => section.plots);
  return [
    { path: 'benchmarks.md', content: `${page.join('\n\n')}\n` },
    ...plots.map(({ file, svg }) => ({ path: `benchmarks/${file}.svg`, content: svg })),
  ];
}

function targetsTable(sections: ReadonlyMap<Question, Section>): string[] {
  const rows = [...sections].flatMap(([{ name }, { targets }]) =>
    targets.map(({ wanted, measured, met }) => [
      `${wanted} ([${name}](#${name}))`,
      measured ?? '',
      measured === null ? 'not measured' : met ? 'met' : '**missed**',
    ]),
  );
  return rows.length === 0 ? [] : ['## Targets', table(['target', 'measured', 'verdict'], rows, 3)];
}

function chapter({ name, title }: Question, results: Results, section: Section): string {
  const { date, quick, seconds, environment } = results[name];
  const parts = [
    `<a id="${name}"></a>\n\n## ${title}`,
    `${date}. ${environmentLine(environment)}.${seconds === undefined ? '' : ` It took ${duration(seconds)}.`}`,
    ...(quick ? ['**Small sizes (`--quick`): not to be quoted.**'] : []),
    section.text,
    ...section.plots.map(({ file, caption }) => `![${caption}](benchmarks/${file}.svg)`),
  ];
  return parts.join('\n\n');
}
