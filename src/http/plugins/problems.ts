/** Whatever goes wrong is answered as an RFC 9457 problem. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { PROBLEM_MEDIA_TYPE, Problem, toProblem } from '../../errors.js';
import { quote } from '../../wire/tree/quote.js';
import { discardRest } from '../admission/unread-bodies.js';
import { AllowedMethods } from '../allowed-methods.js';

declare module 'fastify' {
  interface FastifyReply {
    /** Set when the answer is a problem. */
    problem: Problem | null;
  }
  interface FastifyInstance {
    /** What to answer where no route fits. */
    noRoute(method: string, address: string): Problem;
  }
}

export function answerProblem(
  problem: Problem,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  reply.problem = problem;
  reply.removeHeader('connection');
  discardRest(request.raw);
  const { statusCode } = problem;
  reply
    .code(statusCode)
    .headers({ ...problem.options.headers })
    .type(PROBLEM_MEDIA_TYPE)
    .serializer((value: unknown) => JSON.stringify(value))
    .send(problem.details(request.id));
}

async function problems(app: FastifyInstance): Promise<void> {
  const allowedMethods = new AllowedMethods();
  app.addHook('onRoute', (route) => allowedMethods.add(route));

  app.decorateReply('problem', null);
  app.decorate('noRoute', (method: string, address: string) => {
    const [path] = address.split('?', 1);
    const allow = allowedMethods.of(path).join(', ');
    const shown = quote(path);
    return allow === ''
      ? new Problem('not-found', `There is nothing at ${shown}; GET /docs shows every route.`)
      : new Problem('method-not-allowed', `${shown} takes ${allow}, not ${method}.`, {
          headers: { allow },
        });
  });

  app.setErrorHandler((error, request, reply) => {
    answerProblem(toProblem(error), request, reply);
  });
  app.setNotFoundHandler((request, reply) => {
    answerProblem(app.noRoute(request.method, request.url), request, reply);
  });
  // Before Fastify looks for a body and for its type.
  app.addHook('onRequest', async (request) => {
    if (request.raw.httpVersion === '1.1' && request.headers.host === undefined) {
      throw new Problem('bad-request', 'HTTP/1.1 needs the header Host.');
    }
    if (request.is404) throw app.noRoute(request.method, request.url);
  });
}

export default fp(problems, { name: 'problems' });
