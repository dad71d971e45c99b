/** What the numbers of bench/growth/growth.ts say. */

import type { Plot, Run, Section, Target } from '../question.js';
import { duration, durationSpread, table, times } from '../support/format.js';
import { percent } from '../support/low-rank.js';
import { linePlot } from '../support/plot.js';
import type { Measurement } from '../support/rounds.js';
import { median } from '../support/statistics.js';
import type { GrowthSetting } from './growth.js';

type Row = Measurement<GrowthSetting>;
type Points = (readonly [length: number, seconds: number])[];

export const TOLERANCE = 0.01;
/** Sides. */
export const [LOW_RANK, EXACT] = ['low-rank', 'exact'];

const EXPONENT_WANTED = 1.05;
const SHARE_WANTED = 0.25;
const SHARE_LENGTH = 65_536;
const MIB_PER_WORKER = 256;
/** From here on the exponent is that of the target. */
const EXPONENT_FROM = 16_384;

const isTorch = (side: string) => side.startsWith('PyTorch');

/** Median of the fastest of PyTorch's ways; null: none took part. */
function bestTorch({ seconds }: Row): number | null {
  const ways = Object.keys(seconds).filter(isTorch);
  return ways.length === 0 ? null : Math.min(...ways.map((way) => median(seconds[way])));
}

function pointsOf(rows: readonly Row[], side: string): Points {
  return rows
    .filter(({ seconds }) => seconds[side])
    .map(({ setting, seconds }) => [setting.length, median(seconds[side])] as const);
}

/** Slope of log time over log length, by least squares. */
function exponent(points: Points): number {
  const [x, y] = [0, 1].map((c) => points.map((point) => Math.log(point[c as 0 | 1])));
  const mean = (list: readonly number[]) => list.reduce((a, b) => a + b, 0) / list.length;
  const [mx, my] = [mean(x), mean(y)];
  const products = x.map((value, k) => (value - mx) * (y[k] - my));
  return mean(products) / mean(x.map((value) => (value - mx) ** 2));
}

function ratioTarget(
  rows: readonly Row[],
  length: number,
  tail: GrowthSetting['tail'],
  wanted: number,
): Target {
  const data = tail === 'normal' ? 'normal rows' : 'Student-t4 rows';
  const sentence = `Low-rank is at least ${times(wanted)} as fast as exact at L = ${length}, ${data}, true error at most 1 %`;
  const found = rows.find(({ setting }) => setting.length === length && setting.tail === tail);
  if (!found?.seconds[EXACT]) return { wanted: sentence, measured: null, met: false };
  const ratio = median(found.seconds[EXACT]) / median(found.seconds[LOW_RANK]);
  const error = found.details?.error ?? Number.NaN;
  return {
    wanted: sentence,
    measured: `${times(ratio)}, error ${percent(error)}`,
    met: ratio >= wanted && error <= TOLERANCE,
  };
}

function torchTarget(rows: readonly Row[], length: number, wanted: number): Target {
  const sentence = `Low-rank is at least ${times(wanted)} as fast as PyTorch's best way at L = ${length}, normal rows`;
  const found = rows.find(({ setting }) => setting.length === length && setting.tail === 'normal');
  const best = found && bestTorch(found);
  if (!best) return { wanted: sentence, measured: null, met: false };
  const ratio = best / median(found.seconds[LOW_RANK]);
  return { wanted: sentence, measured: times(ratio), met: ratio >= wanted };
}

function exponentTarget(normal: readonly Row[]): Target {
  const points = pointsOf(normal, LOW_RANK).filter(([length]) => length >= EXPONENT_FROM);
  const wanted = `Low-rank time grows with an exponent of at most ${EXPONENT_WANTED} from L = 16384 to 1048576`;
  if (points.at(-1)?.[0] !== 1_048_576) return { wanted, measured: null, met: false };
  const slope = exponent(points);
  return { wanted, measured: slope.toFixed(2), met: slope <= EXPONENT_WANTED };
}

function shareTarget(normal: readonly Row[]): Target {
  const wanted = `Plan and error estimate together take at most ${percent(SHARE_WANTED)} of a low-rank run at L = ${SHARE_LENGTH}`;
  const details = normal.find(({ setting }) => setting.length === SHARE_LENGTH)?.details;
  if (!details) return { wanted, measured: null, met: false };
  const [plan, estimate] = [details.plan_share, details.estimate_share];
  return {
    wanted,
    measured: `${percent(plan + estimate)} (plan ${percent(plan)}, estimate ${percent(estimate)})`,
    met: plan + estimate <= SHARE_WANTED,
  };
}

function memoryTarget(normal: readonly Row[], cpus: number): Target {
  const wanted = `Low-rank takes the inputs and at most ${MIB_PER_WORKER} MiB a worker, up to L = 1048576`;
  const last = normal[normal.length - 1];
  if (last.setting.length !== 1_048_576) return { wanted, measured: null, met: false };
  const { resident_mib, inputs_mib } = last.details!;
  const extra = resident_mib - inputs_mib;
  return {
    wanted,
    measured: `${Math.round(extra)} MiB above the inputs, the whole process and ${cpus} workers`,
    met: extra <= MIB_PER_WORKER * cpus,
  };
}

function timePlot(rows: readonly Row[]): Plot {
  const normal = rows.filter(({ setting }) => setting.tail === 'normal');
  const caption = 'Time against length: one head, d = 64, {q, v}, tolerance 1 %';
  const torch = normal.flatMap((row) => {
    const best = bestTorch(row);
    return best === null ? [] : [[row.setting.length, best] as const];
  });
  const heavy = rows.filter(({ setting }) => setting.tail === 't4');
  const svg = linePlot({
    title: caption,
    x: {
      label: 'sequence length L',
      scale: 'log',
      ticks: normal.map(({ setting }) => setting.length),
    },
    y: { label: 'time of one gradient', scale: 'log', format: duration },
    series: [
      { name: 'low-rank', points: pointsOf(normal, LOW_RANK) },
      { name: 'low-rank, t4 rows', points: pointsOf(heavy, LOW_RANK) },
      { name: 'exact', points: pointsOf(normal, EXACT) },
      { name: "PyTorch's best", points: torch },
    ].filter(({ points }) => points.length > 0),
  });
  return { file: 'growth', caption, svg };
}

export function tell({ measurements, environment }: Run<GrowthSetting>): Section {
  const normal = measurements.filter(({ setting }) => setting.tail === 'normal');
  const ways = Object.keys(normal[0].seconds).filter(isTorch);
  const text = [
    'One head, d = 64, adapters of rank 8 on q and v, logits of deviation 0.2 with an exponentially falling spectrum, rows',
    `without structure; tolerance 1 %; ${environment.cpus} threads on every side.`,
    '',
    '* Low-rank: plan, chain and estimate, all that a request takes which does not ask for the certificate.',
    '* `drawn`: mixtures of features and rows that the estimate looks at. The mixtures run through the chain; their share of',
    '  its time counts as estimate.',
    '* `upper`: the 99 % limit that the answer states. `error`: the true one against the exact kernel. Both of the worst tensor.',
    '* `memory`: the largest resident set of the whole process, with all threads and the inputs.',
    '',
    table(
      [
        'L',
        'rows',
        'features',
        'drawn',
        'outliers',
        LOW_RANK,
        'of it plan',
        'of it estimate',
        EXACT,
        ...ways,
      ]
        .concat(['over exact', ...(ways.length > 0 ? ["over PyTorch's best"] : [])])
        .concat(['upper', 'error', 'memory', 'of it inputs']),
      measurements.map((row) => {
        const { setting, seconds, details = {} } = row;
        const low = median(seconds[LOW_RANK]);
        const best = bestTorch(row);
        return [
          String(setting.length),
          setting.tail,
          String(details.features),
          `${details.drawn_features} + ${details.drawn_rows}`,
          `${details.outlier_queries} + ${details.outlier_keys}`,
          durationSpread(seconds[LOW_RANK]),
          percent(details.plan_share),
          percent(details.estimate_share),
          ...[EXACT, ...ways].map((side) => (seconds[side] ? duration(median(seconds[side])) : '')),
          seconds[EXACT] ? times(median(seconds[EXACT]) / low) : '',
          ...(ways.length > 0 ? [best === null ? '' : times(best / low)] : []),
          percent(details.upper),
          percent(details.error),
          `${Math.round(details.resident_mib)} MiB`,
          `${Math.round(details.inputs_mib)} MiB`,
        ];
      }),
      2,
    ),
  ];
  return {
    text: text.join('\n'),
    plots: [timePlot(measurements)],
    targets: [
      ratioTarget(measurements, 16_384, 'normal', 10),
      ratioTarget(measurements, 65_536, 'normal', 40),
      ratioTarget(measurements, 16_384, 't4', 5),
      ratioTarget(measurements, 65_536, 't4', 15),
      torchTarget(measurements, 65_536, 100),
      exponentTarget(normal),
      memoryTarget(normal, environment.cpus),
      shareTarget(normal),
    ],
  };
}
