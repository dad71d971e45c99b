/** Which methods an address takes: Fastify finds a route by method and address together only. */
import type { RouteOptions } from 'fastify';
import findMyWay, { type HTTPMethod, type HTTPVersion } from 'find-my-way';

export class AllowedMethods {
  readonly #router = findMyWay<HTTPVersion.V1>();
  readonly #methods = new Set<HTTPMethod>();

  add({ method, url }: Pick<RouteOptions, 'method' | 'url'>): void {
    for (const name of [method].flat() as HTTPMethod[]) {
      this.#methods.add(name);
      // A route that is added for HEAD by Fastify and by hand is one route here.
      if (!this.#router.hasRoute(name, url)) this.#router.on(name, url, () => {});
    }
  }

  /** Methods of an address, in the order of their registration; none when there is nothing at the address. */
  of(address: string): readonly HTTPMethod[] {
    const [path] = address.split('?', 1);
    return [...this.#methods].filter((method) => this.#router.find(method, path) !== null);
  }
}
