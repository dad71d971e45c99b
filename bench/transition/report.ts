/** What the numbers of bench/transition/transition.ts say. */
import type { Plot, Run, Section } from '../question.js';
import { digits, duration, table } from '../support/format.js';
import { percent } from '../support/low-rank.js';
import { linePlot, type Series } from '../support/plot.js';
import type { Measurement } from '../support/rounds.js';
import { median } from '../support/statistics.js';
import type { TransitionSetting } from './transition.js';

type Row = Measurement<TransitionSetting>;

/** Relative, of every tensor. */
export const TOLERANCE = 0.01;
/** Sides. */
export const [LOW_RANK, EXACT] = ['low-rank', 'exact'];

const ROWS = { normal: 'normal rows', t4: 't4 rows' };
const OUTLIERS = { exact: 'outliers exact', none: 'none aside' };

interface Line {
  readonly name: string;
  readonly rows: readonly Row[];
}

/** One line for each kind of rows and treatment of outliers. */
function linesOf(rows: readonly Row[]): Line[] {
  return (['normal', 't4'] as const).flatMap((tail) =>
    (['exact', 'none'] as const).map((outliers) => ({
      name: `${ROWS[tail]}, ${OUTLIERS[outliers]}`,
      rows: rows.filter(({ setting }) => setting.tail === tail && setting.outliers === outliers),
    })),
  );
}

const ratioOf = ({ details }: Row) => details!.ratio;
const lowRankTime = ({ seconds }: Row): number | undefined => seconds[LOW_RANK]?.[0];
/** It does not depend on the rows. */
const exactTime = (rows: readonly Row[]) => median(rows.map(({ seconds }) => seconds[EXACT][0]));

/** Ratio up to which the features are found and low-rank with them is faster; null: nowhere. */
function paysUpTo({ rows }: Line, exact: number): number | null {
  const paying = rows.filter((row) => (lowRankTime(row) ?? Number.POSITIVE_INFINITY) < exact);
  return paying.length === 0 ? null : Math.max(...paying.map(ratioOf));
}

function plot(
  lines: readonly Line[],
  what: Pick<Plot, 'file' | 'caption'>,
  y: { label: string; format: (value: number) => string; of: (row: Row) => number | undefined },
  more: readonly Series[],
): Plot {
  const series = lines
    .map(
      ({ name, rows }): Series => ({
        name,
        points: rows.flatMap((row) => {
          const value = y.of(row);
          return value === undefined ? [] : [[ratioOf(row), value] as const];
        }),
      }),
    )
    .concat(more)
    .filter(({ points }) => points.length > 0);
  const values = series.flatMap(({ points }) => points.map((point) => point[1]));
  const threshold = {
    name: 'threshold',
    reference: true,
    dash: 'dotted' as const,
    points: [Math.min(...values), Math.max(...values)].map((value) => [1, value] as const),
  };
  const svg = linePlot({
    title: what.caption,
    x: { label: 'Γ / √ln L', scale: 'log', format: digits },
    y: { label: y.label, scale: 'log', format: y.format },
    series: [...series, threshold],
  });
  return { ...what, svg };
}

export function tell({ measurements }: Run<TransitionSetting>): Section {
  const lines = linesOf(measurements);
  const { length } = measurements[0].setting;
  const exact = exactTime(measurements);
  const text = [
    `One head, d = 64, L = ${length}, adapters of rank 8 on q and v, exponential spectrum, rows whose gradients add up.`,
    'The logits grow; for each size the fewest features (8, 16, ... 1024) whose true error, against the exact kernel,',
    'is at most 1 % in every tensor (a line ends where 1024 do not suffice), and the time of a low-rank run with them, plan and error bars included, the faster of two.',
    'Γ is the largest absolute entry of √β Q and √β K, that of all rows, also of those put aside.',
    '',
    table(
      ['rows', 'logit deviation', 'Γ/√ln L'].concat(
        Object.values(OUTLIERS).flatMap((name) => [
          `${name}: features`,
          'rows aside',
          'time',
          'error',
        ]),
      ),
      measurements
        .filter(({ setting }) => setting.outliers === 'exact')
        .map((row) => {
          const { tail, deviation } = row.setting;
          const other = measurements.find(
            ({ setting }) =>
              setting.tail === tail &&
              setting.deviation === deviation &&
              setting.outliers === 'none',
          )!;
          return [
            ROWS[tail],
            String(deviation),
            digits(ratioOf(row)),
            ...[row, other].flatMap((one) => {
              const low = lowRankTime(one);
              return low === undefined
                ? ['more than 1024', '', '', '']
                : [
                    String(one.details!.features),
                    String(one.details!.outliers),
                    duration(low),
                    percent(one.details!.error),
                  ];
            }),
          ];
        }),
      2,
    ),
    '',
    `Low-rank with these features is faster than the exact kernel (${duration(exact)} in the median) up to this Γ/√ln L, of those`,
    'measured:',
    '',
    table(
      ['rows', 'faster up to'],
      lines.map((line) => {
        const end = paysUpTo(line, exact);
        return [line.name, end === null ? 'nowhere' : digits(end)];
      }),
    ),
  ];
  const settings = `d = 64, L = ${length}`;
  const exactLine: Series = {
    name: EXACT,
    reference: true,
    points: [Math.min, Math.max].map((end) => [end(...measurements.map(ratioOf)), exact] as const),
  };
  return {
    text: text.join('\n'),
    plots: [
      plot(
        lines,
        {
          file: 'transition-features',
          caption: `Features needed for an error of 1 %: ${settings}`,
        },
        { label: 'features m', format: String, of: ({ details }) => details?.features },
        [],
      ),
      plot(
        lines,
        {
          file: 'transition-time',
          caption: `Time of a gradient with an error of 1 %: ${settings}`,
        },
        { label: 'time of one gradient', format: duration, of: lowRankTime },
        [exactLine],
      ),
    ],
    targets: [],
  };
}
