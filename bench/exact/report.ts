/** What the numbers of bench/exact/exact.ts say. */

import type { Plot, Run, Section, Target } from '../question.js';
import { digits, duration, plural, table, times, timesSpread } from '../support/format.js';
import { linePlot } from '../support/plot.js';
import type { Measurement } from '../support/rounds.js';
import { median, pairedRatios, type Spread } from '../support/statistics.js';
import { adapterSet, RANK } from '../support/subject.js';
import type { ExactSetting } from './exact.js';

type Row = Measurement<ExactSetting>;
type Seconds = Row['seconds'];

/** The build that the service chooses. */
export const US = 'loragrad';
const RATIOS = ['over the best', 'over autograd'];
const AUTOGRAD = 'PyTorch autograd';
const WAYS = ['PyTorch autograd', 'PyTorch sdpa', 'PyTorch blocked'];

/** The fastest of PyTorch's ways by its median, and how many times longer than us it took. */
export function bestWay(seconds: Seconds): { name: string; ratio: Spread } | null {
  const ways = WAYS.filter((way) => seconds[way]);
  if (ways.length === 0 || !seconds[US]) return null;
  const name = ways.reduce((a, b) => (median(seconds[b]) < median(seconds[a]) ? b : a));
  return { name, ratio: pairedRatios(seconds[name], seconds[US]) };
}

function overAutograd(seconds: Seconds): Spread | null {
  return seconds[AUTOGRAD] ? pairedRatios(seconds[AUTOGRAD], seconds[US]) : null;
}

/** As in the tables of others: a full forward and backward, 14 L^2 d, whatever was executed. */
const rate = ({ setting: { length, dim }, seconds }: Row) =>
  (14 * length ** 2 * dim) / median(seconds[US]) / 1e9;

function rowsTable(rows: readonly Row[]): string {
  const ways = WAYS.filter((way) => rows.some(({ seconds }) => seconds[way]));
  const builds = Object.keys(rows[0]?.seconds ?? {}).filter((side) => side.startsWith(US));
  return table(
    ['L', 'd', 'adapters', ...builds, ...ways, ...(ways.length > 0 ? RATIOS : []), 'GFLOP/s'],
    rows.map((row) => {
      const { setting, seconds } = row;
      const best = bestWay(seconds);
      const plain = overAutograd(seconds);
      return [
        String(setting.length),
        String(setting.dim),
        adapterSet(setting.adapters),
        ...[...builds, ...ways].map((side) =>
          seconds[side] ? duration(median(seconds[side])) : '',
        ),
        ...(ways.length > 0
          ? [best?.ratio, plain].map((one) => (one ? timesSpread(one) : ''))
          : []),
        digits(rate(row)),
      ];
    }),
    3,
  );
}

function timePlot(rows: readonly Row[], threads: number): Plot {
  const shown = rows.filter(({ setting }) => setting.dim === 64 && setting.adapters === 'qv');
  const caption = `Time against length: d = 64, {q, v}, ${plural(threads, 'thread')}`;
  const svg = linePlot({
    title: caption,
    x: {
      label: 'sequence length L',
      scale: 'log',
      ticks: shown.map(({ setting }) => setting.length),
    },
    y: { label: 'time of one gradient', scale: 'log', format: duration },
    series: [US, ...WAYS]
      .map((name) => ({
        name,
        points: shown
          .filter(({ seconds }) => seconds[name])
          .map(({ setting, seconds }) => [setting.length, median(seconds[name])] as const),
      }))
      .filter(({ points }) => points.length > 0),
  });
  return { file: `exact-time-${threads}`, caption, svg };
}

/** One line for each d and set of adapters. */
function ratioPlot(rows: readonly Row[], threads: number): Plot | null {
  const groups = new Map<string, [number, number][]>();
  for (const { setting, seconds } of rows) {
    const best = bestWay(seconds);
    if (!best) continue;
    const name = `d = ${setting.dim}, ${adapterSet(setting.adapters)}`;
    groups.set(name, [...(groups.get(name) ?? []), [setting.length, best.ratio.median]]);
  }
  if (groups.size === 0) return null;
  const lengths = [...new Set(rows.map(({ setting }) => setting.length))];
  const wanted = lengths.map((length) => [length, BEST_WANTED] as const);
  const caption = `Times faster than PyTorch's best way: ${plural(threads, 'thread')}`;
  const svg = linePlot({
    title: caption,
    x: { label: 'sequence length L', scale: 'log', ticks: lengths },
    y: { label: "PyTorch's best / loragrad", scale: 'linear', format: times, include: [1] },
    series: [
      ...[...groups].map(([name, points]) => ({ name, points })),
      { name: `wanted: ${times(BEST_WANTED)}`, points: wanted, reference: true },
    ],
  });
  return { file: `exact-ratio-${threads}`, caption, svg };
}

const BEST_WANTED = 1.5;
const AUTOGRAD_WANTED = 3;
const TARGET_LENGTHS = [4096, 16384];

function target(name: string, wanted: number, rows: readonly Row[], of: RatioOf): Target {
  const ratios = rows
    .filter(({ setting }) => setting.dim === 64 && TARGET_LENGTHS.includes(setting.length))
    .flatMap((row) => {
      const ratio = of(row.seconds);
      return ratio ? [{ ratio: ratio.median, row }] : [];
    })
    .sort((a, b) => a.ratio - b.ratio);
  const where = 'd = 64, L = 4096 and 16384';
  const sentence = `The exact kernel is at least ${times(wanted)} as fast as ${name} (${where})`;
  if (ratios.length === 0) return { wanted: sentence, measured: null, met: false };
  const [worst, best] = [ratios[0], ratios[ratios.length - 1]];
  const { length, adapters, threads } = worst.row.setting;
  const at = `L = ${length}, ${adapterSet(adapters)}, ${plural(threads, 'thread')}`;
  const passed = ratios.filter(({ ratio }) => ratio >= wanted).length;
  return {
    wanted: sentence,
    measured: `${times(worst.ratio)} (${at}) to ${times(best.ratio)}; ${passed} of ${ratios.length} settings`,
    met: passed === ratios.length,
  };
}

type RatioOf = (seconds: Seconds) => Spread | null;

const threadsOf = (rows: readonly Row[]) => [
  ...new Set(rows.map(({ setting }) => setting.threads)),
];

export function tell({ measurements }: Run<ExactSetting>): Section {
  const text = [
    `LoRA gradients of one attention head, rank ${RANK}, from hidden states, weights and an upstream gradient to`,
    '`lora_A` and `lora_B`; float32, not causal. `autograd` is softmax(QK^T)V as written and `backward()`;',
    '`sdpa` is `scaled_dot_product_attention`; `blocked` is a backward by hand in blocks of 512 rows that',
    'computes only what the adapters need. Ratios are PyTorch time over ours, pair by pair: median (min to max).',
    'GFLOP/s counts 14 L² d operations, those of a full forward and backward, whatever was executed.',
  ];
  const plots: Plot[] = [];
  for (const threads of threadsOf(measurements)) {
    const rows = measurements.filter(({ setting }) => setting.threads === threads);
    text.push('', `**${plural(threads, 'thread')}** on either side`, '', rowsTable(rows));
    plots.push(timePlot(rows, threads));
    const ratio = ratioPlot(rows, threads);
    if (ratio) plots.push(ratio);
  }
  const targets = [
    target(
      "PyTorch's best way",
      BEST_WANTED,
      measurements,
      (seconds) => bestWay(seconds)?.ratio ?? null,
    ),
    target('plain autograd', AUTOGRAD_WANTED, measurements, overAutograd),
  ];
  return { text: text.join('\n'), plots, targets };
}
