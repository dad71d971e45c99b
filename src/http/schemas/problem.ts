/** RFC 9457 problem details, for the OpenAPI document. */
import Type from 'typebox';
import { PROBLEM_MEDIA_TYPE } from '../../errors.js';
import { PROBLEMS, type ProblemKind, problemType } from '../../problem-kinds.js';

const kinds = Object.keys(PROBLEMS) as ProblemKind[];

export const ProblemSchema = Type.Object(
  {
    type: Type.Enum(kinds.map(problemType), { description: 'Stable name of the kind of problem.' }),
    title: Type.String({ description: 'The kind of problem in a few words.' }),
    status: Type.Integer({ description: 'HTTP status.' }),
    detail: Type.String({ description: 'What is wrong here, in one sentence.' }),
    instance: Type.String({ description: 'Id of the request, as in the log of the service.' }),
    pointer: Type.Optional(
      Type.String({ description: 'RFC 6901 pointer to the part of the body at fault.' }),
    ),
    limit: Type.Optional(Type.Number({ description: 'The limit that was hit.' })),
    actual: Type.Optional(Type.Number({ description: 'The actual value.' })),
    missing: Type.Optional(
      Type.Array(Type.String(), {
        description:
          'missing-tensors: every reference that the store does not have, "sha256:<hex>".',
      }),
    ),
  },
  { $id: 'Problem', description: 'RFC 9457 problem details.' },
);

/** Response entries for every status that the given kinds of problem have. */
export function problemResponses(wanted: readonly ProblemKind[]): Record<number, object> {
  const responses: Record<number, object> = {};
  for (const status of new Set(wanted.map((kind) => PROBLEMS[kind].status))) {
    const titles = wanted
      .filter((kind) => PROBLEMS[kind].status === status)
      .map((kind) => `${kind}: ${PROBLEMS[kind].title}.`);
    responses[status] = {
      description: titles.join('\n\n'),
      content: { [PROBLEM_MEDIA_TYPE]: { schema: { $ref: 'Problem#' } } },
    };
  }
  return responses;
}

/** Not listed with each route: problems that any route may answer, and one that no client sees. */
const ELSEWHERE: readonly ProblemKind[] = [
  'not-found',
  'method-not-allowed',
  'request-timeout',
  'uri-too-long',
  'expectation-failed',
  'headers-too-large',
  'client-gone',
];
const except = (...others: readonly ProblemKind[]) =>
  kinds.filter((kind) => ![...ELSEWHERE, ...others].includes(kind));

/** What a route that computes can answer when it cannot answer. */
export const COMPUTE_PROBLEMS = except('digest-mismatch', 'tensor-too-large');

/** What the route that takes one tensor into the store can answer instead. */
export const STORE_PROBLEMS = except(
  'missing-tensors',
  'unknown-key',
  'missing-key',
  'conflicting-keys',
  'shape-mismatch',
  'nothing-to-do',
);
