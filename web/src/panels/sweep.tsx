/** The transition as it happens: the same input with larger and larger logits. */
import type { GradientAnswer, GradientRequest, ProblemError } from 'loragrad-client';
import { useState } from 'preact/hooks';
import { Figure } from '../charts/figure.js';
import { LineChart } from '../charts/line-chart.js';
import { make } from '../data/maker.js';
import { DEFAULTS, type Settings } from '../data/settings.js';
import { duration, METHODS, percent } from '../format.js';
import { client } from '../service.js';
import { Fields } from './form.js';
import type { Source } from './request-code.js';

/** From 0.02 to 4, even steps of the logarithm. */
const SIZES = Array.from({ length: 16 }, (_, k) => Number((0.02 * 200 ** (k / 15)).toPrecision(3)));

interface Point {
  readonly logits: number;
  readonly gamma_over_limit: number | null;
  readonly below_threshold: boolean;
  readonly method: GradientAnswer['method'];
  readonly features: number | null;
  readonly expected_error: number | null;
  readonly exact_ms: number;
  readonly low_rank_ms: number | null;
  readonly sampled_ms: number | null;
  /** Of the gradient that was computed: all threads, and the largest limit of its error bars. */
  readonly measured_ms: number;
  readonly measured_error: number | null;
  readonly [column: string]: string | number | boolean | null;
}

export function SweepPanel() {
  const [settings, change] = useState<Settings>({ ...DEFAULTS, length: 2048, heads: 1 });
  const [request, setRequest] = useState<GradientRequest | null>(null);
  const [points, setPoints] = useState<readonly Point[]>([]);
  const [running, setRunning] = useState<AbortController | null>(null);
  const [state, say] = useState('');
  const [problem, setProblem] = useState('');

  const ask = async (logits: number, signal: AbortSignal): Promise<Point> => {
    const request = await make({ ...settings, logits }, signal);
    const { threshold, plan } = await client.plan(request, { signal });
    const { method, error, timings_ms } = await client.gradient(request, { signal });
    setRequest(request);
    const limits = Object.values(error).flatMap(({ estimate }) => estimate?.upper ?? []);
    return {
      logits,
      gamma_over_limit: threshold.ratio,
      below_threshold: threshold.below_threshold,
      method,
      features: plan.features,
      expected_error: plan.predicted_error,
      exact_ms: plan.expected_ms.exact,
      low_rank_ms: plan.expected_ms.low_rank,
      sampled_ms: plan.expected_ms.sampled,
      measured_ms: timings_ms.plan + timings_ms.compute,
      measured_error: limits.length > 0 ? Math.max(...limits) : null,
    };
  };

  const run = async (event: Event) => {
    event.preventDefault();
    const controller = new AbortController();
    setRunning(controller);
    setProblem('');
    setPoints([]);
    try {
      for (const [k, logits] of SIZES.entries()) {
        say(`Logits of size ${logits}, ${k + 1} of ${SIZES.length}`);
        const point = await ask(logits, controller.signal);
        setPoints((before) => [...before, point]);
      }
      say('Done');
    } catch (error) {
      say(controller.signal.aborted ? 'Cancelled' : '');
      if (!controller.signal.aborted) setProblem((error as ProblemError | Error).message);
    } finally {
      setRunning(null);
    }
  };

  return (
    <>
      <p class="intro">
        One input, its logits made larger step by step. Below the threshold a few features do;
        across it their number climbs until the exact kernel is cheaper.
      </p>
      <div class="columns">
        <form class="card" onSubmit={run} aria-label="Input of the sweep">
          <Fields settings={settings} change={change} without="logits" />
          <div class="row">
            <button class="main" type="submit" disabled={running !== null}>
              Sweep
            </button>
            <button type="button" disabled={running === null} onClick={() => running?.abort()}>
              Cancel
            </button>
          </div>
          <progress aria-label="Progress of the sweep" max={SIZES.length} value={points.length} />
          <p role="status">{state}</p>
          {problem && <p role="alert">{problem}</p>}
        </form>
        {points.length > 0 && (
          <SweepFigures
            points={points}
            tolerance={settings.tolerance}
            source={{ route: 'plan', request }}
          />
        )}
      </div>
    </>
  );
}

interface FiguresProps {
  readonly points: readonly Point[];
  readonly tolerance: number;
  /** Of the last point. */
  readonly source: Source;
}

function SweepFigures({ points, tolerance, source }: FiguresProps) {
  const x = points.map(({ gamma_over_limit, logits }) => gamma_over_limit ?? logits);
  const xAxis = {
    label: 'Γ / √ln L',
    log: true,
    format: (value: number) => String(Number(value.toPrecision(2))),
  };
  const mark = { x: 1, name: 'threshold' };
  const methods = [...new Set(points.map(({ method }) => method))];
  const measured = (what: 'measured_ms' | 'measured_error') =>
    methods.map((method) => ({
      name: `${METHODS[method].name}, measured`,
      colour: METHODS[method].colour,
      y: points.map((point) => (point.method === method ? point[what] : null)),
      points: true,
    }));
  return (
    <div class="pictures">
      <Figure
        title="Time"
        text="Lines: expected of each kernel on one thread; where they cross, low-rank stops to pay. Points: the gradient as it was computed, all threads, plan included."
        name="sweep-times"
        rows={points}
        source={source}
      >
        <LineChart
          title="Time"
          {...{ x, xAxis, mark }}
          yAxis={{ label: 'time', log: true, format: duration }}
          lines={[
            { name: 'exact', colour: 'bad', y: points.map((point) => point.exact_ms) },
            { name: 'low-rank', colour: 'accent', y: points.map((point) => point.low_rank_ms) },
            { name: 'sampled', colour: 'good', y: points.map((point) => point.sampled_ms) },
            ...measured('measured_ms'),
          ]}
        />
      </Figure>
      <Figure
        title="Features and error"
        text="Features of the cheapest plan, or of the best one where none keeps the tolerance; the limit of the error that the plan expects, and that of the answer."
        name="sweep-features"
        rows={points}
        source={source}
      >
        <LineChart
          title="Features"
          {...{ x, xAxis, mark }}
          yAxis={{ label: 'features', log: true, format: String }}
          lines={[
            {
              name: 'features',
              colour: 'accent',
              y: points.map((point) => point.features),
              points: true,
            },
          ]}
        />
        <LineChart
          title="Error"
          {...{ x, xAxis, mark }}
          yAxis={{ label: 'limit of the error', log: true, format: percent }}
          lines={[
            {
              name: 'low-rank, expected',
              colour: 'accent',
              y: points.map((point) => point.expected_error),
            },
            ...measured('measured_error'),
            { name: 'tolerance', colour: 'bad', y: points.map(() => tolerance), dashed: true },
          ]}
        />
      </Figure>
    </div>
  );
}
