/**
 * Line plots as SVG files that need nothing: no script, no font, no library. Colours tell apart what
 * colour-blind readers can tell apart, markers the rest, and both follow the reader's light or dark.
 */
import { type AxisOptions, axis } from './axis.js';

export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  /** A line to compare with, not a measurement: dashed, grey and without markers. */
  readonly reference?: boolean;
  /** Name of the series that this one belongs to: its colour and legend, no markers. */
  readonly of?: string;
  readonly dash?: Dash;
}

export type Dash = 'dashed' | 'dotted';

export interface PlotOptions {
  readonly title: string;
  readonly x: AxisOptions;
  readonly y: AxisOptions;
  readonly series: readonly Series[];
  /** What kinds of line mean, where series belong to each other: shown below the legend. */
  readonly lines?: readonly { readonly name: string; readonly dash?: Dash }[];
}

const WIDTH = 760;
const HEIGHT = 420;
const LEFT = 76;
/** Right of the data, at least: the legend. */
const LEGEND = 190;
const CHARACTER = 7.2;
const TOP = 52;
const BOTTOM = HEIGHT - 58;

const LIGHT = ['#0072b2', '#d55e00', '#00856a', '#a6457e', '#8a6d00', '#3b6fd4', '#555555'];
const DARK = ['#56b4e9', '#ff9248', '#2fd3a8', '#e79ac8', '#f0d24a', '#9db8ff', '#bbbbbb'];

const colours = (list: readonly string[]) =>
  list.map((colour, k) => `.s${k}{stroke:${colour};fill:${colour}}`).join('');

const STYLE = [
  'text{font:13px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;fill:#1f2328}',
  '.title{font-size:15px;font-weight:600}.tick{font-size:12px;fill:#59636e}',
  '.page{fill:#fff}.grid{stroke:#d8dee4}.frame{stroke:#8c959f;fill:none}.reference{stroke:#6e7781}',
  '.line{fill:none;stroke-width:2.2;stroke-linejoin:round}.reference{fill:none;stroke-dasharray:5 4}',
  '.dashed{stroke-dasharray:7 4}.dotted{stroke-dasharray:2 4}.kind{stroke:#6e7781;stroke-width:2.2}',
  colours(LIGHT),
  '.line.line{fill:none}',
  '@media (prefers-color-scheme:dark){',
  'text{fill:#e6edf3}.tick{fill:#9198a1}.page{fill:#0d1117}.grid{stroke:#2a313c}',
  '.frame{stroke:#656c76}.reference,.kind{stroke:#9198a1}',
  colours(DARK),
  '}',
].join('\n');

const MARKERS: readonly ((x: number, y: number) => string)[] = [
  (x, y) => `<circle cx="${n(x)}" cy="${n(y)}" r="4"/>`,
  (x, y) => `<rect x="${n(x - 3.6)}" y="${n(y - 3.6)}" width="7.2" height="7.2"/>`,
  (x, y) => `<path d="M${n(x)} ${n(y - 5)}l4.8 8.4h-9.6z"/>`,
  (x, y) => `<path d="M${n(x)} ${n(y - 5.2)}l5.2 5.2l-5.2 5.2l-5.2 -5.2z"/>`,
  (x, y) => `<path d="M${n(x)} ${n(y + 5)}l4.8 -8.4h-9.6z"/>`,
];

/** A coordinate; a tenth of a pixel is enough. */
function n(value: number): string {
  return String(Math.round(value * 10) / 10);
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

function text(x: number, y: number, content: string, attributes = ''): string {
  return `<text x="${n(x)}" y="${n(y)}"${attributes && ` ${attributes}`}>${escaped(content)}</text>`;
}

/** The places of the legend's entries, one below the other. */
function legendAt(right: number) {
  const left = right + 18;
  let row = 0;
  return () => {
    const top = TOP + 12 + 22 * row++;
    return { left, top, sample: `M${left} ${top}h26` };
  };
}

/** @throws {RangeError} when there is nothing to show. */
export function linePlot({ title, series, lines = [], ...axes }: PlotOptions): string {
  const points = series.flatMap((one) => one.points);
  const x = axis(
    axes.x,
    points.map((point) => point[0]),
  );
  const y = axis(
    axes.y,
    points.map((point) => point[1]),
  );
  const names = [...series.filter(({ of }) => !of), ...lines].map(({ name }) => name.length);
  const right = WIDTH - Math.max(LEGEND, 58 + CHARACTER * Math.max(...names));
  const px = (at: number) => LEFT + at * (right - LEFT);
  const py = (at: number) => BOTTOM - at * (BOTTOM - TOP);
  const middle = (TOP + BOTTOM) / 2;

  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img">`,
    `<title>${escaped(title)}</title>`,
    `<style>\n${STYLE}\n</style>`,
    `<rect class="page" width="${WIDTH}" height="${HEIGHT}" rx="6"/>`,
    text(LEFT, 30, title, 'class="title"'),
  ];
  for (const tick of x.ticks) {
    const at = px(tick.at);
    out.push(`<path class="grid" d="M${n(at)} ${TOP}V${BOTTOM}"/>`);
    out.push(text(at, BOTTOM + 20, tick.text, 'class="tick" text-anchor="middle"'));
  }
  for (const tick of y.ticks) {
    const at = py(tick.at);
    out.push(`<path class="grid" d="M${LEFT} ${n(at)}H${right}"/>`);
    out.push(text(LEFT - 8, at + 4, tick.text, 'class="tick" text-anchor="end"'));
  }
  out.push(`<path class="frame" d="M${LEFT} ${TOP}V${BOTTOM}H${right}"/>`);
  out.push(text((LEFT + right) / 2, HEIGHT - 14, x.label, 'text-anchor="middle"'));
  out.push(
    text(18, middle, y.label, `text-anchor="middle" transform="rotate(-90 18 ${n(middle)})"`),
  );

  const legend = legendAt(right);
  const colour = new Map<string, number>();
  for (const one of series) {
    if (!one.reference && !one.of) colour.set(one.name, colour.size % LIGHT.length);
    const corners = one.points.map(([a, b]) => [px(x.at(a)), py(y.at(b))] as const);
    const path = corners.map(([a, b], k) => `${k ? 'L' : 'M'}${n(a)} ${n(b)}`).join('');
    const name = `s${colour.get(one.of ?? one.name)}`;
    if (one.of) {
      out.push(`<path class="line ${name} ${one.dash ?? ''}" d="${path}"/>`);
      continue;
    }
    const { left, top, sample } = legend();
    out.push(text(left + 34, top + 4, one.name));
    if (one.reference) {
      out.push(`<path class="reference ${one.dash ?? ''}" d="${path}${sample}"/>`);
      continue;
    }
    const marker = MARKERS[(colour.size - 1) % MARKERS.length];
    const marks = corners.map(([a, b]) => marker(a, b)).join('');
    out.push(`<path class="line ${name} ${one.dash ?? ''}" d="${path}${sample}"/>`);
    out.push(`<g class="${name}">${marks}${marker(left + 13, top)}</g>`);
  }
  for (const { name, dash } of lines) {
    const { left, top, sample } = legend();
    out.push(text(left + 34, top + 4, name));
    out.push(`<path class="line kind ${dash ?? ''}" d="${sample}"/>`);
  }
  return `${out.join('\n')}\n</svg>\n`;
}
