/** What the numbers of bench/coverage/coverage.ts say. */

import type { Plot, Run, Section, Target } from '../question.js';
import { digits, table } from '../support/format.js';
import { linePlot } from '../support/plot.js';
import type { Measurement } from '../support/rounds.js';
import type { CoverageSetting } from './coverage.js';

type Row = Measurement<CoverageSetting>;

const COVERED_WANTED = 0.98;
const MISSED_ALLOWED = 0.01;
const PROBLEMS_WANTED = 1000;
/** Groups of long inputs that are not too small to say something. */
const LONG_TABLE = ['all', 'structure', 'logit deviation', 'rows', 'gradient'];

const figure = ({ details }: Row, name: string) => details?.[name] ?? 0;
const share = (part: number, whole: number) =>
  whole === 0 ? '' : `${part} of ${whole} (${((100 * part) / whole).toFixed(1)} %)`;

/** Numbers by their size, the rest as they come. */
function byValue(a: Row, b: Row): number {
  const [x, y] = [a, b].map(({ setting }) => Number.parseFloat(setting.value));
  return Number.isNaN(x - y) ? a.setting.value.localeCompare(b.setting.value) : x - y;
}

function groupTable(rows: readonly Row[]): string {
  const properties = [...new Set(rows.map(({ setting }) => setting.by))];
  return table(
    [
      'by',
      'value',
      'problems',
      'low-rank refused',
      'covered, tensors',
      'covered, whole answers',
      'certificates held',
      'upper / true',
      'certificate / true',
      'auto: low-rank, fallback, exact',
      'auto missed',
    ],
    properties.flatMap((by) =>
      rows
        .filter(({ setting }) => setting.by === by)
        .sort(byValue)
        .map((row) => {
          const of = (name: string) => figure(row, name);
          return [
            by === 'all' ? '' : by,
            row.setting.value,
            String(of('problems')),
            String(of('refused')),
            share(of('covered'), of('tensors')),
            share(of('answers_covered'), of('answers')),
            of('certificates') ? `${of('held')} of ${of('certificates')}` : '',
            of('upper_50') ? digits(of('upper_50')) : '',
            of('certificate_50') ? of('certificate_50').toExponential(0) : '',
            ['low_rank', 'fallback', 'exact'].map((way) => of(`auto_${way}`)).join(', '),
            String(of('auto_missed')),
          ];
        }),
    ),
    2,
  );
}

function targets(totals: readonly Row[]): Target[] {
  const sum = (name: string) => totals.reduce((total, row) => total + figure(row, name), 0);
  const enough = sum('problems') >= PROBLEMS_WANTED;
  const promise = (wanted: string, part: number, whole: number, least: number): Target => ({
    wanted: `${wanted} (at least ${PROBLEMS_WANTED} random problems)`,
    measured: enough ? share(part, whole) : null,
    met: enough && part >= least * whole,
  });
  const byAuto = sum('problems');
  return [
    promise(
      'The 99 % upper limit covers the true error in at least 98 % of gradients',
      sum('covered'),
      sum('tensors'),
      COVERED_WANTED,
    ),
    promise(
      'The 99 % upper limits cover all gradients of at least 98 % of answers',
      sum('answers_covered'),
      sum('answers'),
      COVERED_WANTED,
    ),
    promise('The certificate holds always', sum('held'), sum('certificates'), 1),
    promise(
      '`auto` keeps its tolerance in at least 99 % of answers',
      byAuto - sum('auto_missed'),
      byAuto,
      1 - MISSED_ALLOWED,
    ),
  ];
}

function tightnessPlot(rows: readonly Row[]): Plot {
  const shown = rows.filter(({ setting }) => setting.by === 'logit deviation').sort(byValue);
  const caption = 'Stated error over true error, random problems';
  const points = (name: string) =>
    shown
      .filter((row) => figure(row, name) > 0)
      .map((row) => [Number(row.setting.value), figure(row, name)] as const);
  const kinds = [
    { name: '99 % upper limit', key: 'upper' },
    { name: 'certificate', key: 'certificate' },
  ];
  const svg = linePlot({
    title: caption,
    x: {
      label: 'standard deviation of the logits',
      scale: 'log',
      ticks: shown.map(({ setting }) => Number(setting.value)),
    },
    y: { label: 'times the true error', scale: 'log', include: [1] },
    series: kinds
      .flatMap(({ name, key }) => [
        { name, points: points(`${key}_50`) },
        ...['10', '90'].map((part) => ({
          ...{ name: part, of: name, dash: 'dotted' as const },
          points: points(`${key}_${part}`),
        })),
      ])
      .filter(({ points }) => points.length > 0),
    lines: [{ name: 'median' }, { name: '10 % and 90 %', dash: 'dotted' }],
  });
  return { file: 'coverage', caption, svg };
}

export function tell({ measurements }: Run<CoverageSetting>): Section {
  const of = (scale: string) => measurements.filter(({ setting }) => setting.scale === scale);
  const [short, long] = [of('short'), of('long')];
  const total = (rows: readonly Row[]) => rows.find(({ setting }) => setting.by === 'all')!;
  const asked = figure(total(short), 'torch');
  const text = [
    'Random problems: one head, d from 4 to 128, three spectra, four kinds of rows, logit deviations from 0.02 to 4,',
    'partial and full adaptation, both objectives, causal or not, gradients whose rows add up or are noise. On top of',
    'these comes one of the structures of test/kernels/structures.ts (grouped heads are four). Each problem is answered twice:',
    '',
    '* `low_rank` as it was asked for, with a random number of features or those of the plan. It gives an answer, however',
    '  large its error, or the 422 of a tolerance that it cannot keep or of an input on which it breaks down. An upper limit',
    '  covers when the true error is not above it.',
    '* `auto`, with its check and its fallback. It misses when the true error of any tensor is above the tolerance (0.1, 0.02',
    '  or 0.005).',
    '',
    'The columns `/ true` say how many times the true error the figures are, in the median.',
    '',
    `**${figure(total(short), 'problems')} short inputs** (150 to 500 rows), truth in float64. The price of low-rank counts as 0`,
    'here, so `auto` takes it whenever its plan expects to keep the tolerance; in the service it would not at this length.',
    ...(asked
      ? [
          `PyTorch's autograd in float64 was asked about ${asked} of them: the truth differs from it by at most`,
          `${figure(total(short), 'torch_difference').toExponential(0)}.`,
        ]
      : []),
    '',
    groupTable(short),
    '',
    `**${figure(total(long), 'problems')} long inputs** (8192 rows), truth by the exact kernel in float32 (in runs since 2026-11-28 by float64 under massive channels); \`auto\` as the service runs it.`,
    '',
    groupTable(long.filter(({ setting }) => LONG_TABLE.includes(setting.by))),
  ];
  return {
    text: text.join('\n'),
    plots: [tightnessPlot(short)],
    targets: targets([total(short), total(long)]),
  };
}
