/**
 * Admission control: by requests and by bytes, before a byte of the body is read. What is refused here
 * may be sent again.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.js';

export interface AdmissionLimits {
  readonly maxRequests: number;
  readonly maxInflightBytes: number;
}

export interface Admitted {
  readonly requests: number;
  readonly bytes: number;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route computes: it is admitted, negotiated and given a deadline. */
    compute?: boolean;
  }
  interface FastifyInstance {
    /** What is in the house now. */
    admitted(): Admitted;
  }
  interface FastifyRequest {
    /**
     * Announce that the body takes this many bytes in all.
     * @throws {Problem} queue-full when that is too much beside the other requests.
     */
    reserveBytes(bytes: number): void;
    /**
     * Announce that it works on this many bytes beside its body.
     * @throws {Problem} queue-full when that is too much beside the other requests; body-too-large when
     * it is too much for one request.
     */
    reserveMoreBytes(bytes: number): void;
  }
}

const RETRY_AFTER_SECONDS = '1';

function busy(what: string, limit: number, actual: number): Problem {
  return new Problem('queue-full', `${what}: ${actual}, the limit is ${limit}. Try again later.`, {
    limit,
    actual,
    headers: { 'retry-after': RETRY_AFTER_SECONDS },
  });
}

async function admission(app: FastifyInstance, limits: AdmissionLimits): Promise<void> {
  const inHouse = new Map<FastifyRequest, number>();
  let bytes = 0;

  function reserve(request: FastifyRequest, wanted: number): void {
    const held = inHouse.get(request) ?? 0;
    const total = bytes - held + wanted;
    if (total > limits.maxInflightBytes) {
      throw busy('Bytes of all requests in flight', limits.maxInflightBytes, total);
    }
    bytes = total;
    inHouse.set(request, wanted);
  }

  function release(request: FastifyRequest): void {
    bytes -= inHouse.get(request) ?? 0;
    inHouse.delete(request);
  }

  app.decorate('admitted', () => ({ requests: inHouse.size, bytes }));
  app.decorateRequest('reserveBytes', function (this: FastifyRequest, wanted: number) {
    reserve(this, wanted);
  });
  app.decorateRequest('reserveMoreBytes', function (this: FastifyRequest, more: number) {
    const actual = (inHouse.get(this) ?? 0) + more;
    const limit = limits.maxInflightBytes;
    if (actual > limit) {
      throw new Problem(
        'body-too-large',
        `The body and the tensors that it refers to have ${actual} bytes; the limit is ${limit}.`,
        { limit, actual },
      );
    }
    reserve(this, actual);
  });

  async function admit(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    if (inHouse.size >= limits.maxRequests) {
      throw busy('Requests in flight', limits.maxRequests, inHouse.size + 1);
    }
    const announced = Number(request.headers['content-length'] ?? 0);
    // What could never be let in is refused as too large when it is read, not as too much for now.
    reserve(request, announced > limits.maxInflightBytes ? 0 : announced);
    // 'close' comes once, whether the answer was sent or the client went away.
    reply.raw.once('close', () => release(request));
  }

  app.addHook('onRoute', (route) => {
    if (route.config?.compute) route.onRequest = [admit, ...[route.onRequest ?? []].flat()];
  });
}

export default fp(admission, { name: 'admission' });
