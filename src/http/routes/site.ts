/** What browsers and crawlers ask every host for: an icon, and what they may index. */
import type { FastifyInstance } from 'fastify';
import { ICON } from '../pages/icon.js';

const DAY = 'public, max-age=86400';

export default async function site(app: FastifyInstance): Promise<void> {
  for (const url of ['/favicon.ico', '/favicon.svg']) {
    app.get(url, {
      config: { open: 'page' },
      schema: { hide: true },
      handler: async (_request, reply) =>
        reply.type('image/svg+xml').header('cache-control', DAY).send(ICON),
    });
  }
  app.get('/robots.txt', {
    config: { open: 'page' },
    schema: { hide: true },
    handler: async (_request, reply) =>
      reply
        .type('text/plain; charset=utf-8')
        .header('cache-control', DAY)
        .send('User-agent: *\nDisallow: /\n'),
  });
}
