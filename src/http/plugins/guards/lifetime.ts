/**
 * When a request is over: its answer is out or its client has gone; one that became a job, when that is
 * forgotten. What a request holds is given back then.
 */
import type { Socket } from 'node:net';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyRequest {
    lifetime: Lifetime;
  }
}

class Lifetime {
  readonly #callbacks: ((left: boolean) => void)[] = [];
  #outlives = false;

  /** @param callback told whether the client left before its answer. */
  whenOver(callback: (left: boolean) => void): void {
    this.#callbacks.push(callback);
  }

  /** The request goes on when its connection closes. Call what is returned, once, when it is over. */
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

/** What is to be called when a connection closes: each request that it has under way at once (pipelining) has an entry. */
function endingsOf(socket: Socket, known: WeakMap<Socket, Set<() => void>>): Set<() => void> {
  let endings = known.get(socket);
  if (!endings) {
    const all = new Set<() => void>();
    endings = all;
    known.set(socket, all);
    socket.once('close', () => {
      for (const end of all) end();
    });
  }
  return endings;
}

async function lifetime(app: FastifyInstance): Promise<void> {
  const known = new WeakMap<Socket, Set<() => void>>();
  app.decorateRequest('lifetime');
  app.addHook('onRequest', async (request: FastifyRequest, { raw }) => {
    const mine = new Lifetime();
    request.lifetime = mine;
    const endings = endingsOf(request.raw.socket, known);
    const end = () => {
      endings.delete(end);
      mine.closed(!raw.writableFinished);
    };
    endings.add(end);
    // When the last byte has left. An answer that waits for another one before it hears nothing of its client.
    raw.once('close', end);
  });
}

export default fp(lifetime, { name: 'lifetime' });
