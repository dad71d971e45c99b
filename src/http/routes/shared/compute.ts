/** What the computing routes share: run the work of a request, and stop it when no client waits for it. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { AttentionLayer } from '../../../../workers/problem.js';
import type { Engine } from '../../../engine/engine.js';
import type { AnswerForm, Done, Verdict } from '../../../engine/messages.js';
import { priceOf } from '../../../engine/price/price.js';
import type { Answers, Work, WorkKind } from '../../../engine/work.js';
import type { Problem } from '../../../errors.js';
import type { PhaseTimes } from '../../../solver/phases.js';
import { JSON_TYPE } from '../../media-types.js';
import { publicPrefix } from '../../public-address.js';
import { progressOf, retryAfter } from '../../schemas/jobs.js';
import type { RouteOptions } from './options.js';

/**
 * The body of the request and its tensors are gone afterwards.
 *
 * @throws {Problem} at once, when it is not admitted.
 *
 * @param form null: the answer is wanted as a value.
 */
export function compute<Kind extends WorkKind>(
  app: FastifyInstance,
  engine: Engine,
  request: FastifyRequest,
  work: Work<Kind>,
  form: AnswerForm | null,
): Promise<Done & { readonly answer: Answers[Kind] }> {
  const start = performance.timeOrigin + performance.now();
  const memory = request.admit(priceOf(work as Work, form), form?.json ?? false);
  return computeAdmitted(app, engine, request, work, { form, start, memory });
}

interface Place {
  readonly form: AnswerForm | null;
  readonly start: number;
  /** Resolves when there is memory for it, to what gives it back. */
  readonly memory: Promise<() => void>;
}

async function computeAdmitted<Kind extends WorkKind>(
  app: FastifyInstance,
  engine: Engine,
  request: FastifyRequest,
  work: Work<Kind>,
  { form, start, memory }: Place,
): Promise<Done & { readonly answer: Answers[Kind] }> {
  const signal = request.cancellation;
  const free = await memory;
  const run = app.runs.begin(request.log);
  request.run = run;
  const { answer, settled } = engine.run(work, {
    signal,
    form,
    owner: request.client,
    start,
    traced: request.span !== null,
    onProgress: (report) => {
      for (const [stage, tasks] of Object.entries(report.tasks)) {
        app.metrics.tasks.inc({ stage }, tasks);
      }
      run.advance(report);
    },
  });
  const kept = answer.then(
    () => {},
    (error) => request.quarantineAfter(error),
  );
  Promise.all([settled, kept]).then(() => {
    run.end();
    request.memory.end();
    free();
  });
  try {
    const done = await answer;
    request.timings = done.timings;
    request.span?.record(done.intervals);
    const { total: _, ...phases } = done.timings;
    for (const phase of Object.keys(phases) as (keyof PhaseTimes)[]) {
      // A phase that the job does not have took no time at all.
      if (phases[phase] > 0) app.metrics.phase.observe({ phase }, phases[phase] / 1000);
    }
    if (done.verdict) app.metrics.observeAnswer(work.kind, done.verdict);
    note(request, work, done.verdict);
    return done;
  } catch (error) {
    if (signal.aborted) {
      app.metrics.cancelled.inc({ reason: (signal.reason as Problem).kind });
    }
    throw error;
  }
}

/**
 * Answers with what the work comes to or, if the client prefers that, with the job that it becomes.
 *
 * @throws {Problem} when it is not admitted, or fails.
 */
export async function respond(
  app: FastifyInstance,
  { engine, config }: RouteOptions,
  request: FastifyRequest,
  reply: FastifyReply,
  work: Work,
  extra?: object,
): Promise<FastifyReply> {
  if (request.wantsJob) app.jobs.requireRoom(request.client);
  const answer = compute(app, engine, request, work, request.answerForm(extra));
  if (!request.wantsJob) return reply.sendWritten(written(await answer));
  const { id, told } = app.jobs.keep(request, answer);
  await told;
  const progress = progressOf(request);
  return reply
    .code(202)
    .header('location', `${publicPrefix(request, config.LORAGRAD_BASE_PATH) ?? ''}/jobs/${id}`)
    .header('preference-applied', 'respond-async')
    .header('retry-after', retryAfter(progress))
    .type(JSON_TYPE)
    .send(progress);
}

/** The bytes of an answer that was asked for in a form. */
export function written({ bytes }: Done): Uint8Array<ArrayBuffer> {
  return bytes as Uint8Array<ArrayBuffer>;
}

/** For the line of the log. */
function note({ notes }: FastifyRequest, work: object, verdict: Verdict | null): void {
  const { problem, layer = problem } = work as { problem?: AttentionLayer; layer?: AttentionLayer };
  if (layer) notes.dims = layer.dims;
  if (!verdict) return;
  notes.kernel = verdict.method;
  notes.below_threshold = verdict.belowThreshold;
  if (verdict.fallback) notes.fallback = true;
}
