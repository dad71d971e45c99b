/** Lines and points over a logarithmic or linear axis, by uPlot. */
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { type Theme, useTheme } from './theme.js';

export interface Line {
  readonly name: string;
  readonly colour: keyof Theme;
  readonly y: readonly (number | null)[];
  readonly points?: boolean;
  readonly dashed?: boolean;
}

interface Axis {
  readonly label: string;
  readonly log?: boolean;
  readonly format: (value: number) => string;
}

interface Props {
  readonly title: string;
  readonly x: readonly number[];
  readonly lines: readonly Line[];
  readonly xAxis: Axis;
  readonly yAxis: Axis;
  /** A vertical line. */
  readonly mark?: { readonly x: number; readonly name: string };
}

const HEIGHT = 280;

function drawMark(plot: uPlot, { x, name }: NonNullable<Props['mark']>, theme: Theme): void {
  const { ctx, bbox } = plot;
  const { min = null, max = null } = plot.scales.x ?? {};
  if (min === null || max === null || x < min || x > max) return;
  const at = plot.valToPos(x, 'x', true);
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = theme.text;
  ctx.setLineDash([4, 4]);
  ctx.beginPath();
  ctx.moveTo(at, bbox.top);
  ctx.lineTo(at, bbox.top + bbox.height);
  ctx.stroke();
  ctx.font = `${12 * devicePixelRatio}px system-ui`;
  // On the side where there is room.
  ctx.textAlign = at > bbox.left + bbox.width / 2 ? 'right' : 'left';
  ctx.textBaseline = 'top';
  ctx.fillText(` ${name} ${x} `, at, bbox.top);
  ctx.restore();
}

function options({ lines, xAxis, yAxis, mark }: Props, theme: Theme, width: number): uPlot.Options {
  const axis = ({ label, format }: Axis, size: number): uPlot.Axis => ({
    label,
    size,
    stroke: theme.text,
    grid: { stroke: theme.line, width: 1 },
    ticks: { stroke: theme.line },
    values: (_, values) => values.map((value) => (value === null ? '' : format(value))),
  });
  const scale = ({ log }: Axis) => ({ distr: log ? (3 as const) : (1 as const) });
  return {
    width,
    height: HEIGHT,
    cursor: { drag: { x: false, y: false } },
    scales: { x: { time: false, ...scale(xAxis) }, y: scale(yAxis) },
    axes: [axis(xAxis, 44), axis(yAxis, 70)],
    ...(mark && { hooks: { draw: [(plot) => drawMark(plot, mark, theme)] } }),
    series: [
      {},
      ...lines.map(
        ({ name, colour, points, dashed }): uPlot.Series => ({
          label: name,
          stroke: theme[colour],
          width: points ? 0 : 2,
          spanGaps: true,
          ...(dashed && { dash: [6, 4] }),
          points: { show: points ?? false, size: 9, fill: theme[colour] },
        }),
      ),
    ],
  };
}

export function LineChart(props: Props) {
  const theme = useTheme();
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = box.current as HTMLDivElement;
    let plot: uPlot | undefined;
    const draw = () => {
      plot?.destroy();
      if (element.clientWidth === 0) return;
      const data = [[...props.x], ...props.lines.map(({ y }) => [...y])] as uPlot.AlignedData;
      plot = new uPlot(options(props, theme, element.clientWidth), data, element);
    };
    const watcher = new ResizeObserver(draw);
    watcher.observe(element);
    return () => {
      watcher.disconnect();
      plot?.destroy();
    };
  }, [props, theme]);
  return (
    <figure class="chart" aria-label={props.title}>
      <div ref={box} role="img" aria-label={`${props.title}; its numbers are in the table below`} />
      <ul class="key">
        {props.lines.map(({ name, colour, points, dashed }) => (
          <li key={name} style={{ color: theme[colour] }}>
            <span aria-hidden="true">{points ? '● ' : dashed ? '┄ ' : '━ '}</span>
            {name}
          </li>
        ))}
      </ul>
    </figure>
  );
}
