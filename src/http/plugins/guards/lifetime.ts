/**
 * When a request is over: its answer is out or its client has gone; one that became a job, when that is
 * forgotten. What a request holds is given back then.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyRequest {
    lifetime: Lifetime;
  }
}

export class Lifetime {
  readonly #callbacks: ((left: boolean) => void)[] = [];
  #outlives = false;

  /** @param callback told whether the client left before its answer. */
  whenOver(callback: (left: boolean) => void): void {
    this.#callbacks.push(callback);
  }

  /** From now on the connection may close; call what is returned once when it is over. */
  outlive(): () => void {
    this.#outlives = true;
    return () => this.#end(false);
  }

  /** The connection has closed. */
  closed(left: boolean): void {
    if (!this.#outlives) this.#end(left);
  }

  #end(left: boolean): void {
    for (const callback of this.#callbacks.splice(0)) callback(left);
  }
}

async function lifetime(app: FastifyInstance): Promise<void> {
  app.decorateRequest('lifetime');
  app.addHook('onRequest', async (request: FastifyRequest, { raw }) => {
    const mine = new Lifetime();
    request.lifetime = mine;
    // Comes once, when the last byte has left or the client has gone.
    raw.once('close', () => mine.closed(!raw.writableFinished));
  });
}

export default fp(lifetime, { name: 'lifetime' });
