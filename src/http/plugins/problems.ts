/** Whatever goes wrong is answered as an RFC 9457 problem. */
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { PROBLEM_MEDIA_TYPE, Problem, type ProblemKind, toProblem } from '../../errors.js';
import { quote } from '../../wire/tree/quote.js';

declare module 'fastify' {
  interface FastifyReply {
    /** Set when the answer is a problem; for the metrics. */
    problem: ProblemKind | null;
  }
}

function answer(problem: Problem, request: FastifyRequest, reply: FastifyReply): void {
  reply.problem = problem.kind;
  // Many clients look for an answer only once they have sent everything: the rest is received and
  // thrown away, on a connection that Fastify would close.
  request.raw.resume();
  reply.removeHeader('connection');
  const { statusCode } = problem;
  if (statusCode >= 500)
    request.log.error({ err: problem.options.cause ?? problem }, problem.message);
  else
    request.log.info({ problem: problem.kind, pointer: problem.options.pointer }, problem.message);
  reply
    .code(statusCode)
    .headers({ ...problem.options.headers })
    .type(PROBLEM_MEDIA_TYPE)
    .serializer((value: unknown) => JSON.stringify(value))
    .send(problem.details(request.id));
}

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];

async function problems(app: FastifyInstance): Promise<void> {
  app.decorateReply('problem', null);

  app.setErrorHandler((error: FastifyError, request, reply) => {
    answer(toProblem(error), request, reply);
  });

  app.setNotFoundHandler((request, reply) => {
    const url = request.url.split('?', 1)[0];
    const shown = quote(url);
    const allowed = METHODS.filter((method) => app.hasRoute({ method, url }));
    const problem =
      allowed.length > 0
        ? new Problem(
            'method-not-allowed',
            `${shown} takes ${allowed.join(', ')}, not ${request.method}.`,
            {
              headers: { allow: allowed.join(', ') },
            },
          )
        : new Problem('not-found', `There is nothing at ${shown}; GET /docs shows every route.`);
    answer(problem, request, reply);
  });
}

export default fp(problems, { name: 'problems' });
