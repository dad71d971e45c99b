/** What the OpenAPI document has beside the schemas of the routes: examples with their answers, headers, problems. */
import { PROBLEM_MEDIA_TYPE, type ProblemDetails } from '../../errors.js';
import { JSON_TYPE } from '../media-types.js';
import { type Example, REQUEST_EXAMPLES } from './example.js';
import { readRecorded } from './recorded.js';

/** As much of OpenAPI 3.1 as is added to here. */
interface Media {
  schema?: unknown;
  examples?: Record<string, NamedExample>;
}
interface NamedExample {
  readonly summary: string;
  readonly description?: string;
  readonly value: unknown;
}
interface Header {
  readonly description: string;
  readonly schema: { readonly type: 'string' };
}
interface Response {
  description: string;
  headers?: Record<string, Header>;
  content?: Record<string, Media>;
}
interface Operation {
  operationId?: string;
  parameters?: object[];
  requestBody?: { content: Record<string, Media> };
  responses?: Record<string, Response>;
}
export interface Document {
  paths?: Record<string, Partial<Record<'get' | 'head' | 'put' | 'post' | 'delete', Operation>>>;
}

const text = (description: string): Header => ({
  description,
  schema: { type: 'string' },
});
/** Headers of every answer. */
const HEADERS = {
  'x-request-id': text('Id of the request, as in the log: that of the request, or a new one.'),
  'server-timing': text('Milliseconds in each phase, as browsers show them.'),
};
/** Headers of the answers with these statuses. */
const HEADERS_OF: Readonly<Record<string, Record<string, Header>>> = {
  405: { allow: text('Methods that the address takes.') },
  415: { 'accept-encoding': text('Content codings that a body may have.') },
  429: { 'retry-after': text('Seconds after which to try again.') },
  503: { 'retry-after': text('Seconds after which to try again.') },
};

const REQUEST_ID: object = {
  name: 'x-request-id',
  in: 'header',
  description:
    'Id of the request: up to 128 letters, digits and any of _.:/+=@~-; others are replaced.',
  schema: { type: 'string' },
};

/** What any route may answer besides: a request that is not HTTP, or headers that cannot be met. */
const ANYWHERE = ['bad-request', 'method-not-allowed', 'uri-too-long', 'expectation-failed'];

function problemExamples(problems: readonly ProblemDetails[]): Record<string, NamedExample> {
  return Object.fromEntries(
    problems.map((value) => [
      value.type.slice(value.type.lastIndexOf(':') + 1),
      { summary: value.title, value },
    ]),
  );
}

/** Each kind of problem that the description of a response lists begins a line of it. */
const kindsIn = (description: string) =>
  [...description.matchAll(/^([a-z-]+): /gm)].map(([, k]) => k);

const isReference = ({ value }: Example) => JSON.stringify(value).includes('"$ref"');

function addExamples(operation: Operation, recorded: ReturnType<typeof readRecorded>): void {
  const id = operation.operationId ?? '';
  const request = operation.requestBody?.content;
  const examples = REQUEST_EXAMPLES[id];
  if (request && examples) {
    const plain = Object.entries(examples).filter(([, example]) => !isReference(example));
    request[JSON_TYPE].examples = Object.fromEntries(plain);
  }
  for (const [status, response] of Object.entries(operation.responses ?? {})) {
    response.headers = { ...HEADERS, ...HEADERS_OF[status], ...response.headers };
    const answers = Object.entries(recorded.answers[id] ?? {}).filter(
      ([, answer]) => String(answer.status) === status,
    );
    const json = response.content?.[JSON_TYPE];
    if (json && answers.length > 0) {
      json.examples = Object.fromEntries(
        answers.map(([name, { body }]) => [
          name,
          { summary: examples?.[name]?.summary ?? name, value: body },
        ]),
      );
    }
    const problem = response.content?.[PROBLEM_MEDIA_TYPE];
    if (!problem) continue;
    const kinds = kindsIn(response.description).filter((kind) => recorded.problems[kind]);
    problem.examples = problemExamples(kinds.map((kind) => recorded.problems[kind]));
  }
}

function problemResponse(description: string, problems: readonly ProblemDetails[]): Response {
  const schema = { $ref: '#/components/schemas/Problem' };
  const examples = problemExamples(problems);
  return { description, headers: HEADERS, content: { [PROBLEM_MEDIA_TYPE]: { schema, examples } } };
}

/** Changes the document in place and returns it. */
export function completeDocument<D extends Document>(document: D): D {
  const recorded = readRecorded();
  const problems = (kinds: readonly string[]) =>
    kinds.flatMap((kind) => recorded.problems[kind] ?? []);
  const [anywhere, failure] = [problems(ANYWHERE), problems(['internal-error'])];
  for (const path of Object.values(document.paths ?? {})) {
    for (const method of ['get', 'head', 'put', 'post', 'delete'] as const) {
      const operation = path[method];
      if (!operation) continue;
      addExamples(operation, recorded);
      operation.parameters = [...(operation.parameters ?? []), REQUEST_ID];
      operation.responses ??= {};
      operation.responses['4XX'] = problemResponse('Any other problem of the request.', anywhere);
      operation.responses.default = problemResponse('Any other problem.', failure);
    }
  }
  return document;
}
