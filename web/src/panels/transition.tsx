/** One input: where it lies, what the plan tried, what the answer's errors are. */
import type { GradientAnswer, GradientRequest, PlanAnswer } from 'loragrad-client';
import { useEffect, useRef, useState } from 'preact/hooks';
import { requestOfFile } from '../data/files.js';
import { make } from '../data/maker.js';
import { DEFAULTS, type Settings } from '../data/settings.js';
import { METHODS } from '../format.js';
import { client } from '../service.js';
import {
  ErrorBars,
  FeatureErrors,
  Gauge,
  KeyErrors,
  type Measured,
  Times,
} from './answer-figures.js';
import { Fields } from './form.js';

interface Shown {
  readonly request: GradientRequest;
  readonly plan: PlanAnswer;
  readonly answer: GradientAnswer | null;
}

export function TransitionPanel({ shown: isShown }: { shown: boolean }) {
  const [settings, change] = useState<Settings>(DEFAULTS);
  const [file, setFile] = useState<File | null>(null);
  const [over, setOver] = useState(false);
  const [state, say] = useState('');
  const [problem, setProblem] = useState('');
  const [shown, show] = useState<Shown | null>(null);
  const [measured, setMeasured] = useState<readonly Measured[]>([]);
  const [running, setRunning] = useState<AbortController | null>(null);
  const picker = useRef<HTMLInputElement>(null);

  const ask = async (signal: AbortSignal) => {
    say(file ? 'Reading the file' : 'Generating the data');
    const request = file ? await requestOfFile(file, settings) : await make(settings, signal);
    say('Asking for the plan');
    const plan = await client.plan(request, { signal });
    show({ request, plan, answer: null });
    say('Computing the gradient');
    const answer = await client.gradient(request, { signal });
    show({ request, plan, answer });
    const length = answer.threshold.sequence_length;
    const ms = answer.timings_ms.plan + answer.timings_ms.compute;
    setMeasured((before) => [...before, { length, ms, method: answer.method }]);
    say(`Done in ${Math.round(answer.timings_ms.total)} ms`);
  };

  const run = async () => {
    const controller = new AbortController();
    setRunning(controller);
    setProblem('');
    try {
      await ask(controller.signal);
    } catch (error) {
      say('');
      setProblem(controller.signal.aborted ? 'Cancelled' : (error as Error).message);
    } finally {
      setRunning(null);
    }
  };

  // Something to look at before anybody has chosen anything.
  const isFirst = useRef(true);
  useEffect(() => {
    if (!isShown || !isFirst.current) return;
    isFirst.current = false;
    run();
  }, [isShown]);

  const submit = (event: Event) => {
    event.preventDefault();
    run();
  };

  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    setFile(event.dataTransfer?.files[0] ?? null);
  };

  const tolerance = shown?.request.tolerance ?? DEFAULTS.tolerance;
  const planSource = { route: 'plan', request: shown?.request ?? null } as const;
  return (
    <>
      <p class="intro">
        Gradients of LoRA adapters can be had in almost linear time while the largest entry Γ of
        queries and keys is below √ln L, and not above it. Choose an input and see on which side it
        lies, what the plan tried, and how large the errors are.
      </p>
      <div class="columns">
        <form class="card" onSubmit={submit} aria-label="Input">
          <Fields settings={settings} change={change} />
          <fieldset
            class={over ? 'drop over' : 'drop'}
            onDragOver={(event) => {
              event.preventDefault();
              setOver(true);
            }}
            onDragLeave={() => setOver(false)}
            onDrop={drop}
          >
            {file
              ? `${file.name} takes the place of synthetic data`
              : 'Or drop a .npy (L, d), .safetensors or .msgpack file here'}
            <div class="row">
              <button type="button" onClick={() => picker.current?.click()}>
                Choose a file
              </button>
              {file && (
                <button type="button" onClick={() => setFile(null)}>
                  Use synthetic data
                </button>
              )}
            </div>
            <input
              ref={picker}
              type="file"
              hidden
              accept=".npy,.safetensors,.msgpack,.mpk"
              aria-label="File with tensors"
              onChange={(event) => setFile(event.currentTarget.files?.[0] ?? null)}
            />
          </fieldset>
          <div class="row">
            <button class="main" type="submit" disabled={running !== null}>
              Compute
            </button>
            <button type="button" disabled={running === null} onClick={() => running?.abort()}>
              Cancel
            </button>
          </div>
          <p role="status">{state}</p>
          {problem && <p role="alert">{problem}</p>}
        </form>
        {shown && (
          <div class="pictures" aria-busy={running !== null}>
            <Verdict {...shown} />
            <Gauge threshold={shown.plan.threshold} source={planSource} />
            <FeatureErrors plan={shown.plan.plan} tolerance={tolerance} source={planSource} />
            <KeyErrors plan={shown.plan.plan} tolerance={tolerance} source={planSource} />
            <Times {...shown.plan} measured={measured} source={planSource} />
            {shown.answer && (
              <ErrorBars
                answer={shown.answer}
                tolerance={tolerance}
                source={{ route: 'gradient', request: shown.request }}
              />
            )}
          </div>
        )}
      </div>
    </>
  );
}

function Verdict({ plan, answer }: Shown) {
  const { below_threshold, ratio } = plan.threshold;
  const { method, reason } = answer ?? plan;
  return (
    <article class="card" aria-label="Verdict">
      <h2>Verdict</h2>
      <p class={`verdict ${below_threshold ? 'good' : 'bad'}`}>
        {below_threshold ? 'Below' : 'Above'} the threshold
        {ratio !== null && ` (Γ / √ln L = ${ratio.toPrecision(3)})`}
      </p>
      <p>
        Kernel: <strong>{METHODS[method].name}</strong>. {reason}
      </p>
    </article>
  );
}
