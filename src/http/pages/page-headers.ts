/** The headers of everything that a browser shows. */
import type { FastifyHelmetOptions } from '@fastify/helmet';

/** @param secure whether the service itself speaks HTTPS: only then may a browser be told to stay with it. */
export function pageHeaders(secure: boolean): FastifyHelmetOptions {
  return {
    // Each page has its own.
    contentSecurityPolicy: false,
    strictTransportSecurity: secure,
    // Frames of the same origin show the guide beside the explorer.
    frameguard: { action: 'sameorigin' },
  };
}
