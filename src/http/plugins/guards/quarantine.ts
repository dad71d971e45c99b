/**
 * A request that has ended two workers would end two more when it is sent again: for a while its body is known by
 * its digest and refused.
 */
import { createHash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { LRUCache } from 'lru-cache';
import { Problem } from '../../../errors.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** The body as it came, but for its content coding; as long as `memory` lasts. */
    bodyBytes: Uint8Array;
    /** The same body is refused from now on, if the error says that it ended workers. Before its memory is gone. */
    quarantineAfter(error: unknown): Promise<void>;
  }
}

/** How long a body is refused. */
const QUARANTINE_MS = 60_000;
const MOST = 1000;
/** Bytes that are hashed without a pause: about a millisecond. */
const SLICE = 2 ** 20;

async function digestOf({ routeOptions, bodyBytes }: FastifyRequest): Promise<string> {
  const hash = createHash('sha256').update(`${routeOptions.url}\n`);
  for (let at = 0; at < bodyBytes.length; at += SLICE) {
    hash.update(bodyBytes.subarray(at, at + SLICE));
    await setImmediate();
  }
  return hash.digest('hex');
}

async function quarantine(app: FastifyInstance): Promise<void> {
  const suspects = new LRUCache<string, true>({ max: MOST, ttl: QUARANTINE_MS });

  async function refuse(request: FastifyRequest): Promise<void> {
    if (suspects.size === 0) return;
    const digest = await digestOf(request);
    if (!suspects.has(digest)) return;
    const seconds = Math.ceil(suspects.getRemainingTTL(digest) / 1000);
    throw new Problem(
      'ends-workers',
      `The same request has ended two workers; it is refused for another ${seconds} seconds.`,
    );
  }

  app.decorateRequest('bodyBytes');
  app.decorateRequest('quarantineAfter', async function (this: FastifyRequest, error: unknown) {
    if (!(error instanceof Problem) || error.kind !== 'ends-workers') return;
    const digest = await digestOf(this);
    suspects.set(digest, true);
    this.log.error({ digest, route: this.routeOptions.url }, 'A request has ended two workers');
  });
  app.addHook('onRequest', async (request) => {
    request.bodyBytes = new Uint8Array(0);
  });
  app.addHook('onRoute', (route) => {
    if (route.config?.compute) route.preHandler = [refuse, ...[route.preHandler ?? []].flat()];
  });
}

export default fp(quarantine, { name: 'quarantine' });
