/**
 * Who sends a request, and whether it may. Clients share the service fairly, whatever the number of their
 * connections; those with an API key are known by its name and have a store of their own.
 */
import type { FastifyInstance, FastifyRequest, RouteOptions } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../../errors.js';
import { quote } from '../../../wire/tree/quote.js';
import type { ApiKeys } from '../../access/api-keys.js';
import { type Quota, Usage } from '../../access/quotas.js';

interface ClientsOptions {
  readonly keys: ApiKeys;
  /** Names that the service answers to; none: all. */
  readonly hosts: readonly string[];
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /**
     * The route needs no key. A probe has none, and asks whatever address it likes; a page holds no data, and a
     * browser has a key only once a page has asked for it.
     */
    open?: 'probe' | 'page';
  }
  interface FastifyRequest {
    /** Name of the API key, or the address. */
    client: string;
    /** Whose tensors in the store are meant: the name of the API key; '' without keys. */
    owner: string;
    quota: Quota;
    /** Reports bytes of the body that have arrived. */
    spendBytes(amount: number): void;
  }
}

/** A hook of onRoute, for pages and their files. */
export function withoutKey(route: RouteOptions): void {
  route.config = { ...route.config, open: 'page' };
}

const NO_QUOTA: Quota = {};

/** Identifies a client without a key: its address, or of IPv6 its /64 network, which one host has to itself. */
export function addressOf(ip: string): string {
  return ip.includes(':') && !ip.startsWith('::ffff:') ? ip.split(':').slice(0, 4).join(':') : ip;
}

function keyOf({ headers }: FastifyRequest): string {
  const [, bearer] = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '') ?? [];
  return bearer ?? String(headers['x-api-key'] ?? '');
}

async function clients(app: FastifyInstance, { keys, hosts }: ClientsOptions): Promise<void> {
  app.decorateRequest('client', '');
  const usage = new Usage();
  const names = new Set(hosts.map((name) => name.toLowerCase()));
  app.decorateRequest('owner', '');
  app.decorateRequest('quota');
  app.decorateRequest('spendBytes', function (this: FastifyRequest, amount: number) {
    usage.spend(this.owner, this.quota, amount);
  });

  app.addHook('onRequest', async (request: FastifyRequest) => {
    request.client = addressOf(request.ip);
    request.quota = NO_QUOTA;
    const { open, compute } = request.routeOptions.config ?? {};
    if (open === 'probe') return;
    if (names.size > 0 && !names.has(request.hostname.toLowerCase())) {
      throw new Problem(
        'misdirected-request',
        `The service does not answer to ${quote(request.hostname)}.`,
      );
    }
    if (keys.open || open === 'page') return;
    const holder = keys.holderOf(keyOf(request));
    if (holder === null) {
      throw new Problem('unauthorized', 'There is no API key, or it is not valid.', {
        headers: { 'www-authenticate': 'Bearer' },
      });
    }
    request.client = `key ${holder.name}`;
    request.owner = holder.name;
    request.quota = holder.quota;
    if (compute) usage.begin(holder.name, holder.quota);
  });
}

export default fp(clients, { name: 'clients' });
