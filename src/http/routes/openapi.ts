/** GET /openapi.json */
import type { FastifyInstance } from 'fastify';
import { serverUrl } from '../public-address.js';
import type { RouteOptions } from './shared/options.js';

export default async function openapi(
  app: FastifyInstance,
  { config }: RouteOptions,
): Promise<void> {
  app.get('/openapi.json', {
    config: { open: 'page' },
    schema: { hide: true },
    handler: async (request) => ({
      ...app.swagger(),
      servers: [{ url: serverUrl(request, config.LORAGRAD_BASE_PATH, '.') }],
    }),
  });
}
