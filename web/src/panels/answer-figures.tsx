/** The pictures of one plan and one answer. */
import type { GradientAnswer, PlanAnswer } from 'loragrad-client';
import { Bars } from '../charts/bars.js';
import { Figure } from '../charts/figure.js';
import { LineChart } from '../charts/line-chart.js';
import { duration, METHODS, percent } from '../format.js';
import type { Source } from './request-code.js';

type Threshold = PlanAnswer['threshold'];
type Plan = PlanAnswer['plan'];

/** Which of the norms makes Gamma what it is. */
function blame({ norms }: Threshold['heads'][number]): string {
  const side = norms.query >= norms.key ? 'query' : 'key';
  const part = norms[`${side}_adapter`] > norms[`${side}_frozen`] ? 'adapter' : 'frozen weight';
  return `${side === 'query' ? 'queries' : 'keys'}, ${part}`;
}

export function Gauge({ threshold, source }: { threshold: Threshold; source: Source }) {
  const { heads, limit } = threshold;
  const rows = heads.map(({ batch_item, head, gamma, below_threshold, norms }) => ({
    ...{ batch_item, head, gamma, limit, ratio: limit > 0 ? gamma / limit : null, below_threshold },
    ...norms,
  }));
  const bars = heads.map((head) => ({
    name:
      heads.length > 1
        ? `head ${head.head}${head.batch_item > 0 ? `, item ${head.batch_item}` : ''}`
        : 'Γ',
    value: head.gamma,
    note: `Γ = ${head.gamma.toPrecision(3)}: ${blame(head)}`,
    good: head.below_threshold,
  }));
  return (
    <Figure
      title="Γ of each head"
      text="The largest entry of the scaled queries and keys, against √ln L. Beside it: the side and the part that are to blame."
      name="gamma"
      {...{ rows, source }}
    >
      <Bars
        title="Gamma of each head"
        bars={bars}
        limit={limit}
        limitName={`√ln L = ${limit.toPrecision(3)}`}
      />
    </Figure>
  );
}

interface TriedProps {
  readonly plan: Plan;
  readonly tolerance: number;
  readonly source: Source;
}

export function FeatureErrors({ plan, tolerance, source }: TriedProps) {
  return (
    <Tried
      title="Error against features"
      text="What the plan tried on a sample: the limit of the error to expect of the worst head, with so many features."
      name="features"
      colour={METHODS.low_rank.colour}
      nothing="Nothing was tried: the low-rank kernel does not take this layer, or another one was asked for."
      tried={plan.tried.map(({ features, ...rest }) => ({ count: features, ...rest }))}
      {...{ tolerance, source }}
    />
  );
}

export function KeyErrors({ plan, tolerance, source }: TriedProps) {
  return (
    <Tried
      title="Error against drawn keys"
      text="What the plan expects from some blocks: the limit of the error, with so many far keys drawn for each block of 64 rows."
      name="keys"
      colour={METHODS.sampled.colour}
      nothing="Nothing was tried: the sampled kernel would not pay for this layer, or another one was asked for."
      tried={(plan.sampled?.tried ?? []).map(({ keys, ...rest }) => ({ count: keys, ...rest }))}
      {...{ tolerance, source }}
    />
  );
}

interface TriedFigureProps {
  readonly title: string;
  readonly text: string;
  /** What is counted; names the files, too. */
  readonly name: 'features' | 'keys';
  readonly colour: (typeof METHODS)[keyof typeof METHODS]['colour'];
  /** Said where nothing was tried. */
  readonly nothing: string;
  readonly tried: readonly {
    readonly count: number;
    readonly error: number | null;
    readonly ms: number;
  }[];
  readonly tolerance: number;
  readonly source: Source;
}

function Tried(props: TriedFigureProps) {
  const { title, text, name, colour, nothing, tried, tolerance, source } = props;
  const rows = tried.map(({ count, error, ms }) => ({ [name]: count, error, tolerance, ms }));
  return (
    <Figure {...{ title, text, name, rows, source }}>
      {tried.length === 0 ? (
        <p>{nothing}</p>
      ) : (
        <LineChart
          title={title}
          x={tried.map(({ count }) => count)}
          xAxis={{ label: name, log: true, format: String }}
          yAxis={{ label: 'relative error', log: true, format: percent }}
          lines={[
            {
              ...{ name: 'expected limit', colour, points: true },
              y: tried.map(({ error }) => error),
            },
            { name: 'tolerance', colour: 'bad', y: tried.map(() => tolerance), dashed: true },
          ]}
        />
      )}
    </Figure>
  );
}

export interface Measured {
  readonly length: number;
  readonly ms: number;
  readonly method: GradientAnswer['method'];
}

/** Half powers of two from 256 to 262,144 tokens. */
const LENGTHS = Array.from({ length: 21 }, (_, k) => Math.round(2 ** (8 + k / 2)));

interface TimesProps {
  readonly plan: Plan;
  readonly threshold: Threshold;
  readonly measured: readonly Measured[];
  readonly source: Source;
}

export function Times({ plan, threshold, measured, source }: TimesProps) {
  const { exact, low_rank, low_rank_linear, sampled, sampled_linear } = plan.expected_ms;
  const L = threshold.sequence_length;
  const breakEven = plan.break_even_length;
  const x = [...new Set([...LENGTHS, L, ...measured.map(({ length }) => length)])].sort(
    (a, b) => a - b,
  );
  const growing = (all: number | null, linear: number | null) =>
    x.map((at) =>
      all === null || linear === null ? null : linear * (at / L) + (all - linear) * (at / L) ** 2,
    );
  const expected = {
    exact: growing(exact, 0),
    low_rank: growing(low_rank, low_rank_linear),
    sampled: growing(sampled, sampled_linear),
  };
  const methods = [...new Set(measured.map(({ method }) => method))];
  const points = methods.map((method) => ({
    method,
    y: x.map(
      (at) => measured.findLast((one) => one.method === method && one.length === at)?.ms ?? null,
    ),
  }));
  const rows = x.map((length, k) => ({
    length,
    exact_ms: expected.exact[k],
    low_rank_ms: expected.low_rank[k],
    sampled_ms: expected.sampled[k],
    ...Object.fromEntries(points.map(({ method, y }) => [`measured_${method}_ms`, y[k]])),
    break_even_length: breakEven,
  }));
  const where =
    breakEven !== null
      ? ` Low-rank pays from ${breakEven} tokens on.`
      : low_rank === null
        ? ''
        : ' Low-rank never pays for such an input.';
  return (
    <Figure
      title="Time against length"
      text={`Expected on one thread of this machine, and measured here, all threads, plan included.${where}`}
      name="times"
      {...{ rows, source }}
    >
      <LineChart
        title="Time against length"
        x={x}
        xAxis={{
          label: 'length L',
          log: true,
          format: (value) => (value >= 1000 ? `${Math.round(value / 1000)}k` : String(value)),
        }}
        yAxis={{ label: 'time', log: true, format: duration }}
        lines={[
          { name: 'exact, expected', colour: 'bad', y: expected.exact },
          { name: 'low-rank, expected', colour: 'accent', y: expected.low_rank },
          ...(sampled === null
            ? []
            : [{ name: 'sampled, expected', colour: METHODS.sampled.colour, y: expected.sampled }]),
          ...points.map(({ method, y }) => ({
            name: `${METHODS[method].name}, measured`,
            colour: METHODS[method].colour,
            y,
            points: true,
          })),
        ]}
        {...(breakEven !== null && { mark: { x: breakEven, name: 'break-even' } })}
      />
    </Figure>
  );
}

interface ErrorBarsProps {
  readonly answer: GradientAnswer;
  readonly tolerance: number;
  readonly source: Source;
}

export function ErrorBars({ answer, tolerance, source }: ErrorBarsProps) {
  const estimates = Object.entries(answer.error).flatMap(([name, { estimate }]) =>
    estimate ? [{ name, ...estimate }] : [],
  );
  const rows = estimates.map((estimate) => ({ ...estimate, tolerance }));
  const bars = estimates.map(({ name, relative, upper }) => ({
    name,
    value: upper,
    mark: relative,
    note: `below ${percent(upper)}`,
    good: upper <= tolerance,
  }));
  return (
    <Figure
      title="Error of each gradient"
      text="Relative to the norm of the gradient, logarithmic. A bar ends at the limit that holds with 99 % confidence; the mark inside is the estimate."
      name="errors"
      {...{ rows, source }}
    >
      {bars.length === 0 ? (
        <p>Computed in float64: there is nothing more precise to compare with.</p>
      ) : (
        <Bars
          log
          title="Error of each gradient"
          bars={bars}
          limit={tolerance}
          limitName={`tolerance ${percent(tolerance)}`}
        />
      )}
    </Figure>
  );
}
