/** Where clients see the service: a proxy may publish it below a path. */
import type { FastifyRequest } from 'fastify';

/** What a proxy puts before the address, in time that is linear in its length. */
const PATH = /^((?:\/[\w.~-]+)+)\/*$/;

/** The path below which the service is published, without a slash at its end; null: not known. */
export function publicPrefix({ headers }: FastifyRequest, basePath: string): string | null {
  const forwarded = headers['x-forwarded-prefix'];
  const given = (typeof forwarded === 'string' ? forwarded : basePath).trim();
  return PATH.exec(given)?.[1] ?? null;
}

/**
 * What stands in `servers` of the OpenAPI document: without a known prefix it is relative to the document.
 *
 * @param up from the document's address to that of the service: '.' or '..'.
 */
export function serverUrl(request: FastifyRequest, basePath: string, up: string): string {
  return publicPrefix(request, basePath) ?? up;
}

/** For proxies that hand the path on as it is: what stands behind the prefix. */
export function withoutBasePath(url: string, basePath: string): string {
  if (basePath === '' || !url.startsWith(basePath)) return url;
  const rest = url.slice(basePath.length);
  return rest === '' || rest.startsWith('?') ? `/${rest}` : rest.startsWith('/') ? rest : url;
}
