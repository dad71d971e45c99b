/** Horizontal bars with a limit across them: the gauge of Gamma, the error bars of tensors. */

export interface Bar {
  readonly name: string;
  /** Of the bar, and of a mark inside it. */
  readonly value: number;
  readonly mark?: number;
  readonly note: string;
  readonly good: boolean;
}

interface Props {
  readonly title: string;
  readonly bars: readonly Bar[];
  readonly limit: number;
  readonly limitName: string;
  readonly log?: boolean;
}

const WIDTH = 400;
const LEFT = 8;
const ROW = 46;
const TOP = 22;

export function Bars({ title, bars, limit, limitName, log }: Props) {
  const values = [limit, ...bars.flatMap(({ value, mark }) => [value, mark ?? value])];
  const positive = values.filter((value) => value > 0 && Number.isFinite(value));
  const largest = Math.max(...positive) * (log ? 2 : 1.15);
  const least = log ? Math.min(...positive) / 3 : 0;
  const at = (value: number) => {
    const share = log
      ? Math.log(Math.max(value, least) / least) / Math.log(largest / least)
      : value / largest;
    return LEFT + Math.min(1, share) * (WIDTH - 2 * LEFT);
  };
  const height = TOP + bars.length * ROW + 4;
  const x = at(limit);
  return (
    <svg
      viewBox={`0 0 ${WIDTH} ${height}`}
      role="img"
      aria-label={`${title}; its numbers are in the table below`}
    >
      {bars.map(({ name, value, mark, note, good }, k) => {
        const y = TOP + k * ROW;
        return (
          <g key={name}>
            <text x={LEFT} y={y + 13}>
              {name}
              <tspan dx="8" fill-opacity="0.75">
                {note}
              </tspan>
            </text>
            <rect
              x={LEFT}
              y={y + 19}
              width={Math.max(1, at(value) - LEFT)}
              height="14"
              rx="3"
              fill={good ? 'var(--good)' : 'var(--bad)'}
            />
            {mark !== undefined && (
              <rect x={at(mark) - 1.5} y={y + 16} width="3" height="20" fill="var(--text)" />
            )}
          </g>
        );
      })}
      <line
        x1={x}
        x2={x}
        y1={TOP - 4}
        y2={height}
        stroke="var(--text)"
        stroke-width="2"
        stroke-dasharray="4 3"
      />
      <text x={x} y="12" text-anchor={x > WIDTH / 2 ? 'end' : 'start'}>
        {limitName}
      </text>
    </svg>
  );
}
