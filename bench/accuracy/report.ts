/** What the numbers of bench/accuracy/accuracy.ts say. */

import type { Plot, Run, Section } from '../question.js';
import { digits, table } from '../support/format.js';
import { percent } from '../support/low-rank.js';
import { linePlot, type Series } from '../support/plot.js';
import type { Measurement } from '../support/rounds.js';
import type { AccuracySetting } from './accuracy.js';

type Row = Measurement<AccuracySetting>;

const NAMES: Readonly<Record<string, string>> = {
  exponential: 'exponential spectrum',
  harmonic: '1/n spectrum',
  flat: 'flat spectrum',
};
/** Figures of an answer, and how their line is drawn. */
const FIGURES = [
  { key: 'error', name: 'true error' },
  { key: 'upper', name: '99 % upper limit', dash: 'dashed' },
  { key: 'certificate', name: 'certificate', dash: 'dotted' },
] as const;

const distinct = <T>(values: readonly T[]): T[] => [...new Set(values)];

function plot(rows: readonly Row[], spectrum: string): Plot {
  const shown = rows.filter(({ setting }) => setting.spectrum === spectrum);
  const caption = `Error against features: ${NAMES[spectrum]}, d = 64, L = ${shown[0].setting.length}`;
  const series = distinct(shown.map(({ setting }) => setting.deviation)).flatMap((deviation) => {
    const name = `deviation ${deviation}`;
    return FIGURES.map(({ key, ...line }): Series => {
      const points = shown
        .filter(({ setting, details }) => setting.deviation === deviation && details?.[key])
        .map(({ setting, details }) => [setting.features, details![key]] as const);
      return 'dash' in line
        ? { name: line.name, dash: line.dash, of: name, points }
        : { name, points };
    });
  });
  const svg = linePlot({
    title: caption,
    x: {
      label: 'number of features m',
      scale: 'log',
      ticks: distinct(shown.map(({ setting }) => setting.features)),
    },
    y: { label: 'relative error of the worst tensor', scale: 'log', format: percent },
    series: series.filter(({ points }) => points.length > 0),
    lines: FIGURES.map(({ key: _, ...line }) => line),
  });
  return { file: `accuracy-${spectrum}`, caption, svg };
}

export function tell({ measurements }: Run<AccuracySetting>): Section {
  const counts = distinct(measurements.map(({ setting }) => setting.features));
  const cases = measurements.filter(({ setting }) => setting.features === counts[0]);
  const text = [
    `One head, d = 64, L = ${measurements[0].setting.length}, adapters of rank 8 on q, k and v, normal rows whose`,
    'gradients add up as in training. `deviation` is that of the logits, Γ/√ln L the largest entry of queries and',
    'keys over the threshold. Each cell: true error (against float64) / 99 % upper limit / certificate, all relative,',
    'of the worst gradient tensor; a dash is a certificate that is void.',
    '',
    table(
      ['spectrum', 'deviation', 'Γ/√ln L', ...counts.map((m) => `m = ${m}`)],
      cases.map(({ setting: { spectrum, deviation }, details }) => [
        NAMES[spectrum],
        String(deviation),
        digits(details!.ratio),
        ...counts.map((features) => {
          const found = measurements.find(
            ({ setting: at }) =>
              at.spectrum === spectrum && at.deviation === deviation && at.features === features,
          );
          const figure = (key: string) => percent(found?.details?.[key]) || '–';
          return found?.details?.error === undefined
            ? 'no answer'
            : FIGURES.map(({ key }) => figure(key)).join(' / ');
        }),
      ]),
      2,
    ),
  ];
  const spectra = distinct(measurements.map(({ setting }) => setting.spectrum));
  return {
    text: text.join('\n'),
    plots: spectra.map((spectrum) => plot(measurements, spectrum)),
    targets: [],
  };
}
