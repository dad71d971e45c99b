/** What the service itself does, from its metrics. */
import { useEffect, useState } from 'preact/hooks';
import { Figure } from '../charts/figure.js';
import { LineChart } from '../charts/line-chart.js';
import { latestOf, parseMetrics, type Sample } from '../data/metrics.js';
import { bytes } from '../format.js';
import { ask, SERVICE } from '../service.js';

const METRICS = { route: 'metrics', request: null } as const;
const EVERY_MS = 2000;
/** Ten minutes. */
const KEPT = 300;

interface Moment {
  readonly at: number;
  readonly samples: readonly Sample[];
}

const ROUTES = ['/gradient', '/forward', '/plan'];

/** Requests answered so far, by route and status. */
function answered(samples: readonly Sample[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { name, labels, value } of samples) {
    if (!name.endsWith('http_request_duration_seconds_count')) continue;
    if (!ROUTES.includes(labels.route)) continue;
    const key = `${labels.method} ${labels.route} ${labels.status}`;
    counts.set(key, (counts.get(key) ?? 0) + value);
  }
  return counts;
}

/** While the panel is looked at. */
function useMoments(shown: boolean): { moments: readonly Moment[]; problem: string } {
  const [moments, setMoments] = useState<readonly Moment[]>([]);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    if (!shown) return;
    const controller = new AbortController();
    const look = async () => {
      try {
        const response = await ask(new URL('metrics', SERVICE), { signal: controller.signal });
        if (!response.ok) throw new Error(`GET /metrics answers with ${response.status}`);
        const moment = { at: Date.now(), samples: parseMetrics(await response.text()) };
        setMoments((before) => [...before, moment].slice(-KEPT));
        setProblem('');
      } catch (error) {
        if (!controller.signal.aborted) setProblem((error as Error).message);
      }
    };
    look();
    const timer = setInterval(look, EVERY_MS);
    return () => {
      controller.abort();
      clearInterval(timer);
    };
  }, [shown]);
  return { moments, problem };
}

export function ServicePanel({ shown }: { shown: boolean }) {
  const { moments, problem } = useMoments(shown);
  const latest = moments.at(-1);
  return (
    <>
      <p class="intro">
        This service, as its metrics tell it, every two seconds while this panel is open.
      </p>
      {problem && <p role="alert">{problem}</p>}
      {latest && (
        <div class="pictures">
          <Now samples={latest.samples} />
          <Load moments={moments} />
          <Requests first={moments[0]} last={latest} />
        </div>
      )}
    </>
  );
}

function Now({ samples }: { samples: readonly Sample[] }) {
  const value = (name: string) => latestOf(samples, `loragrad_${name}`);
  const resident = latestOf(samples, 'process_resident_memory_bytes');
  const kernel = samples.find(({ name }) => name === 'loragrad_kernel_info')?.labels;
  const rows = [
    { what: 'inner loops', value: Object.values(kernel ?? {}).join(', ') },
    { what: 'workers', value: `${value('workers_busy')} of ${value('workers')} busy` },
    { what: 'jobs running or waiting', value: String(value('jobs')) },
    { what: 'tasks waiting', value: String(value('tasks_waiting')) },
    { what: 'requests admitted', value: String(value('inflight_requests')) },
    { what: 'their bytes', value: bytes(value('inflight_bytes') ?? 0) },
    { what: 'memory of the process', value: resident === null ? 'unknown' : bytes(resident) },
  ];
  return (
    <article class="card" aria-label="Now">
      <h2>Now</h2>
      <table>
        <tbody>
          {rows.map(({ what, value }) => (
            <tr key={what}>
              <th scope="row">{what}</th>
              <td>{value}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </article>
  );
}

function Load({ moments }: { moments: readonly Moment[] }) {
  const of = (name: string) => moments.map(({ samples }) => latestOf(samples, name));
  const last = moments[moments.length - 1].at;
  const seconds = moments.map(({ at }) => (at - last) / 1000);
  const [busy, waiting] = [of('loragrad_workers_busy'), of('loragrad_tasks_waiting')];
  const rows = seconds.map((second, k) => ({ second, busy: busy[k], waiting: waiting[k] }));
  return (
    <Figure
      title="Load"
      text="Workers that run a task, and tasks that wait for one."
      name="load"
      rows={rows}
      source={METRICS}
    >
      <LineChart
        title="Load"
        x={seconds}
        xAxis={{ label: 'seconds', format: String }}
        yAxis={{ label: 'number', format: String }}
        lines={[
          { name: 'busy workers', colour: 'accent', y: busy },
          { name: 'tasks waiting', colour: 'bad', y: waiting, dashed: true },
        ]}
      />
    </Figure>
  );
}

function Requests({ first, last }: { first: Moment; last: Moment }) {
  const [before, now] = [answered(first.samples), answered(last.samples)];
  const minutes = (last.at - first.at) / 60_000;
  const rows = [...now].map(([key, total]) => {
    const [method, route, status] = key.split(' ');
    return {
      request: `${method} ${route}`,
      status,
      since_opened: total - (before.get(key) ?? 0),
      total,
    };
  });
  const gradients = last.samples.filter(({ name }) => name === 'loragrad_gradients_total');
  const kernels = gradients.map(({ labels, value }) => ({
    request: `${labels.method}, ${labels.below_threshold === 'true' ? 'below' : 'above'} the threshold`,
    status: 'computed',
    since_opened:
      value -
      (first.samples.find(
        (one) =>
          one.name === 'loragrad_gradients_total' &&
          one.labels.method === labels.method &&
          one.labels.below_threshold === labels.below_threshold,
      )?.value ?? 0),
    total: value,
  }));
  const all = [...rows, ...kernels];
  return (
    <Figure
      title="Requests"
      text={`By outcome: in the last ${minutes.toFixed(1)} minutes, and since the service started.`}
      name="requests"
      rows={all}
      source={METRICS}
    >
      <table>
        <thead>
          <tr>
            <th scope="col">request</th>
            <th scope="col">outcome</th>
            <th scope="col">last minutes</th>
            <th scope="col">total</th>
          </tr>
        </thead>
        <tbody>
          {all.map(({ request, status, since_opened, total }) => (
            <tr key={`${request} ${status}`}>
              <td>{request}</td>
              <td>{status}</td>
              <td>{since_opened}</td>
              <td>{total}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Figure>
  );
}
