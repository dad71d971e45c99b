/** A reverse proxy that publishes a service below a path, as `location /loragrad/` of nginx does. */
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface PrefixProxy {
  /** With the prefix, without a slash at its end. */
  readonly url: string;
  close(): Promise<void>;
}

/**
 * @param announce send X-Forwarded-Prefix.
 * @param strip take the prefix away; else the service has to know it.
 */
export async function startPrefixProxy(
  target: string,
  prefix: string,
  { announce, strip = true }: { announce: boolean; strip?: boolean },
): Promise<PrefixProxy> {
  const server = createServer((incoming, outgoing) => {
    const url = incoming.url ?? '/';
    if (!url.startsWith(`${prefix}/`)) {
      outgoing.writeHead(404).end('not under the prefix');
      return;
    }
    const forwarded = request(
      target + (strip ? url.slice(prefix.length) : url),
      {
        method: incoming.method,
        headers: { ...incoming.headers, ...(announce && { 'x-forwarded-prefix': prefix }) },
      },
      (answer) => {
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(outgoing);
      },
    );
    forwarded.on('error', () => outgoing.destroy());
    incoming.pipe(forwarded);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}${prefix}`,
    close: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
