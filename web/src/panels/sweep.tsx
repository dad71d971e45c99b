/** The transition as it happens: the same input with larger and larger logits. */
import type { ProblemError } from 'loragrad-client';
import { useState } from 'preact/hooks';
import { Figure } from '../charts/figure.js';
import { LineChart } from '../charts/line-chart.js';
import { make } from '../data/maker.js';
import { DEFAULTS, type Settings } from '../data/settings.js';
import { duration, percent } from '../format.js';
import { client } from '../service.js';
import { Fields } from './form.js';

/** From 0.02 to 4, even steps of the logarithm. */
const SIZES = Array.from({ length: 16 }, (_, k) => Number((0.02 * 200 ** (k / 15)).toPrecision(3)));

interface Point {
  readonly logits: number;
  readonly gamma_over_limit: number | null;
  readonly below_threshold: boolean;
  readonly method: string;
  readonly features: number | null;
  readonly expected_error: number | null;
  readonly exact_ms: number;
  readonly low_rank_ms: number | null;
  readonly [column: string]: string | number | boolean | null;
}

export function SweepPanel() {
  const [settings, change] = useState<Settings>({ ...DEFAULTS, length: 2048, heads: 1 });
  const [points, setPoints] = useState<readonly Point[]>([]);
  const [running, setRunning] = useState<AbortController | null>(null);
  const [state, say] = useState('');
  const [problem, setProblem] = useState('');

  const ask = async (logits: number, signal: AbortSignal): Promise<Point> => {
    const request = await make({ ...settings, logits }, signal);
    const { method, threshold, plan } = await client.plan(request, { signal });
    return {
      logits,
      gamma_over_limit: threshold.ratio,
      below_threshold: threshold.below_threshold,
      method,
      features: plan.features,
      expected_error: plan.predicted_error,
      exact_ms: plan.expected_ms.exact,
      low_rank_ms: plan.expected_ms.low_rank,
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
        {points.length > 0 && <SweepFigures points={points} tolerance={settings.tolerance} />}
      </div>
    </>
  );
}

function SweepFigures({ points, tolerance }: { points: readonly Point[]; tolerance: number }) {
  const x = points.map(({ gamma_over_limit, logits }) => gamma_over_limit ?? logits);
  const xAxis = {
    label: 'Γ / √ln L',
    log: true,
    format: (value: number) => String(Number(value.toPrecision(2))),
  };
  const mark = { x: 1, name: 'threshold' };
  return (
    <div class="pictures">
      <Figure
        title="Time to expect"
        text="Of each kernel on one thread. Where the lines cross, low-rank stops to pay."
        name="sweep-times"
        rows={points}
      >
        <LineChart
          title="Time to expect"
          {...{ x, xAxis, mark }}
          yAxis={{ label: 'time', log: true, format: duration }}
          lines={[
            { name: 'exact', colour: 'bad', y: points.map((point) => point.exact_ms) },
            {
              name: 'low-rank',
              colour: 'accent',
              y: points.map((point) => point.low_rank_ms),
              points: true,
            },
          ]}
        />
      </Figure>
      <Figure
        title="Features and error"
        text="Features of the cheapest plan, or of the best one where none keeps the tolerance."
        name="sweep-features"
        rows={points}
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
          title="Error to expect"
          {...{ x, xAxis, mark }}
          yAxis={{ label: 'expected error', log: true, format: percent }}
          lines={[
            {
              name: 'expected error',
              colour: 'accent',
              y: points.map((point) => point.expected_error),
              points: true,
            },
            { name: 'tolerance', colour: 'bad', y: points.map(() => tolerance), dashed: true },
          ]}
        />
      </Figure>
    </div>
  );
}
