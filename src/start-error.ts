/** Why the service cannot listen, in words that name the setting. */
import { once } from 'node:events';
import { createServer, type Server } from 'node:net';
import type { Config } from './settings.js';

interface ListenError extends Error {
  readonly code?: string;
  readonly syscall?: string;
}

const PORTS = ['PORT', 'LORAGRAD_METRICS_PORT'] as const;

/** @throws {Error} when the service could not listen, before the slow steps of a start. */
export async function requireAddress(config: Config): Promise<void> {
  const servers: Server[] = [];
  for (const name of PORTS) {
    const server = createServer().listen(config[name], config.HOST);
    await once(server, 'listening').catch((error: Error) => {
      throw startError(error, config, name);
    });
    servers.push(server);
  }
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
}

export function startError(
  error: ListenError,
  { HOST, ...config }: Config,
  name: (typeof PORTS)[number] = 'PORT',
): Error {
  const port = config[name];
  switch (error.syscall === 'getaddrinfo' ? 'ENOTFOUND' : error.code) {
    case 'ENOTFOUND':
    case 'EADDRNOTAVAIL':
    case 'EINVAL':
      return new Error(
        `HOST: "${HOST}" is no address of this machine (${error.code}); it takes an address to listen on, such as 127.0.0.1, 0.0.0.0 or ::. (conda sets HOST for its compilers: start with HOST=127.0.0.1.)`,
      );
    case 'EADDRINUSE':
      return new Error(`${name}: ${port} is taken at ${HOST}; another one can be set.`);
    case 'EACCES':
      return new Error(
        `${name}: this user may not listen on ${port} at ${HOST}; ports from 1024 are free to all.`,
      );
    default:
      return error;
  }
}
