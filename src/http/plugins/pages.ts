/** The explorer page at / and the documentation at /guide/, as the build made them. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import helmet from '@fastify/helmet';
import fastifyStatic from '@fastify/static';
import type { FastifyInstance } from 'fastify';
import { packageFile } from '../../../workers/package-file.js';
import { Problem } from '../../errors.js';
import { pageHeaders } from '../pages/page-headers.js';
import { withoutKey } from './guards/clients.js';

/** Nothing from elsewhere, nothing inline. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "font-src 'self'",
  "connect-src 'self'",
  "worker-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'self'",
].join('; ');

/** The documentation generator writes a few inline scripts and styles into its pages. */
const GUIDE_POLICY = POLICY.replaceAll(/(script|style)-src 'self'/g, "$& 'unsafe-inline'");

const SITES = [
  { folder: 'web', prefix: '/', policy: POLICY },
  { folder: 'guide', prefix: '/guide/', policy: GUIDE_POLICY },
] as const;

/** Files below assets/ have a hash of their content in their names; the others are asked for again, by their ETag. */
function cacheControl(path: string): string {
  return /[\\/]assets[\\/]/.test(path) ? 'public, max-age=31536000, immutable' : 'no-cache';
}

/** Pages link to each other, built or not. */
function notBuilt(prefix: string): Problem {
  return new Problem(
    'not-found',
    `The pages at ${prefix} are not built here: npm run build makes those at /, npm run docs:site those at /guide/. The documents are also in the folder docs/ of the repository.`,
  );
}

async function pages(app: FastifyInstance, { secure }: { secure: boolean }): Promise<void> {
  app.addHook('onRoute', withoutKey);
  await app.register(helmet, pageHeaders(secure));
  for (const { folder, prefix, policy } of SITES) {
    const root = fileURLToPath(packageFile(`dist/${folder}/`));
    const bare = prefix.slice(0, -1);
    if (!existsSync(root)) {
      app.get(prefix, {
        schema: { hide: true },
        handler: async () => Promise.reject(notBuilt(prefix)),
      });
      continue;
    }
    if (bare) {
      // Relative, so that it works below the path of a proxy.
      app.get(bare, {
        schema: { hide: true },
        handler: async (_request, reply) => reply.redirect(`${bare.slice(1)}/`),
      });
    }
    await app.register(fastifyStatic, {
      root,
      prefix,
      // One route for each file: what is not there is answered as a problem, like everything else.
      wildcard: false,
      decorateReply: false,
      cacheControl: false,
      setHeaders: (response, path) => {
        response.setHeader('cache-control', cacheControl(path));
        response.setHeader('content-security-policy', policy);
      },
    });
  }
}

export default pages;
