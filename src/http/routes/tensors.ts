/** PUT, HEAD, GET and DELETE /tensors/{sha256}: tensors that do not change travel once. */
import type { FastifyInstance } from 'fastify';
import Type from 'typebox';
import type { EncodedTensor } from '../../../workers/tensor/encoded.js';
import { wireBytes } from '../../../workers/tensor/tensor.js';
import { Problem } from '../../errors.js';
import { storedBytes } from '../../store/tensor-store.js';
import { referenceName } from '../../wire/tree/reference.js';
import { keeperOf } from '../access/quotas.js';
import { JSON_TYPE } from '../media-types.js';
import { TENSOR_EXAMPLE_DIGEST } from '../schemas/example.js';
import { answerContent, requestBody } from '../schemas/media.js';
import { problemResponses, STORE_PROBLEMS } from '../schemas/problem.js';
import { compute, written } from './shared/compute.js';
import type { RouteOptions } from './shared/options.js';

const Params = Type.Object({
  sha256: Type.String({
    pattern: '^[0-9a-f]{64}$',
    description:
      'SHA-256 of "{dtype}\\n{shape joined by commas}\\n" in ASCII (such as "float32\\n512,64\\n") ' +
      'and the data, little endian and row-major; 64 lower-case hexadecimal digits.',
    examples: [TENSOR_EXAMPLE_DIGEST],
  }),
});
type Params = Type.Static<typeof Params>;

const URL = '/tensors/:sha256';
const MISSING = ['bad-request', 'not-found'] as const;

export default async function tensors(app: FastifyInstance, options: RouteOptions): Promise<void> {
  const { store, engine, config } = options;

  app.put<{ Params: Params; Body: EncodedTensor }>(URL, {
    config: { compute: true },
    schema: {
      operationId: 'putTensor',
      summary: 'Keep a tensor, so that requests can refer to it',
      description:
        'Afterwards {"$ref": "sha256:<hex>"} may stand for it in any request. Tensors that were not ' +
        'used for the longest time make room for others, so a client must be ready to send one again.',
      tags: ['tensors'],
      params: Params,
      body: requestBody('Tensor'),
      response: {
        201: { description: 'It is kept now.', type: 'null' },
        204: { description: 'It was kept already.', type: 'null' },
        ...problemResponses(STORE_PROBLEMS),
      },
    },
    handler: async (request, reply) => {
      const { sha256 } = request.params;
      const { dtype, shape } = request.body;
      const keeper = keeperOf(request, store.own.limit);
      const limit = keeper.quota;
      const actual = storedBytes(dtype, shape);
      if (actual > limit) {
        throw new Problem(
          'tensor-too-large',
          `The tensor takes ${actual} bytes in the store, which keeps ${limit} for you in all.`,
          { limit, actual },
        );
      }
      const work = { kind: 'keep', digest: sha256, encoded: request.body } as const;
      const { answer: tensor } = await compute(app, engine, request, work, null);
      const isNew = await store.add(referenceName(sha256), tensor, keeper);
      Object.assign(request.notes, { dtype, shape, isNew });
      return reply.code(isNew ? 201 : 204).send();
    },
  });

  app.head<{ Params: Params }>(URL, {
    config: { swagger: { exposeHeadRoute: true } },
    schema: {
      operationId: 'headTensor',
      summary: 'Whether a tensor is kept',
      description: 'It counts as used.',
      tags: ['tensors'],
      params: Params,
      response: {
        200: { description: 'It is kept.', type: 'null' },
        ...problemResponses(MISSING),
      },
    },
    handler: async (request, reply) => {
      const { sha256 } = request.params;
      const keeper = keeperOf(request, store.own.limit);
      if (!(await store.has(referenceName(sha256), keeper))) throw notFound(sha256);
      return reply.send();
    },
  });

  app.get<{ Params: Params }>(URL, {
    config: { compute: true },
    exposeHeadRoute: false,
    schema: {
      operationId: 'getTensor',
      summary: 'A tensor that is kept',
      description: 'MessagePack unless JSON is asked for, which has the size limit of JSON bodies.',
      tags: ['tensors'],
      params: Params,
      response: {
        200: answerContent('Tensor', 'The tensor as {dtype, shape, data}.'),
        ...problemResponses([
          ...MISSING,
          'not-acceptable',
          'queue-full',
          'internal-error',
          'deadline-exceeded',
        ]),
      },
    },
    handler: async (request, reply) => {
      const { sha256 } = request.params;
      const name = referenceName(sha256);
      const keeper = keeperOf(request, store.own.limit);
      const found = await store.find([name], keeper, (forms) => {
        for (const form of forms) request.reserveMoreBytes(wireBytes(form));
      });
      const tensor = found.get(name);
      if (!tensor) throw notFound(sha256);
      const limit = config.LORAGRAD_MAX_JSON_BYTES;
      const actual = wireBytes(tensor);
      if (request.answerType === JSON_TYPE && actual > limit) {
        throw new Problem(
          'not-acceptable',
          `The tensor has ${actual} bytes; as JSON, at most ${limit} are answered. Accept MessagePack.`,
          { limit, actual },
        );
      }
      request.reserveMoreBytes(actual);
      const work = { kind: 'give', tensor } as const;
      const done = await compute(app, engine, request, work, request.answerForm());
      return reply.sendWritten(written(done));
    },
  });

  app.delete<{ Params: Params }>(URL, {
    schema: {
      operationId: 'deleteTensor',
      summary: 'Forget a tensor',
      description: 'Requests that refer to it get 409 until it is sent again.',
      tags: ['tensors'],
      params: Params,
      response: {
        204: { description: 'It is not kept any more.', type: 'null' },
        ...problemResponses(MISSING),
      },
    },
    handler: async (request, reply) => {
      const { sha256 } = request.params;
      if (!(await store.delete(referenceName(sha256), request.owner))) throw notFound(sha256);
      return reply.code(204).send();
    },
  });
}

function notFound(sha256: string): Problem {
  return new Problem(
    'not-found',
    `The store does not have ${sha256}: it was never sent, was deleted, or had to make room.`,
  );
}
