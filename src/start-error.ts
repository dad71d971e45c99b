/** Why the service cannot listen, in words that name the setting. */
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { Config } from './config.js';

interface ListenError extends Error {
  readonly code?: string;
  readonly syscall?: string;
}

/** @throws {Error} when the service could not listen: told before anything takes its time. */
export async function requireAddress(config: Config): Promise<void> {
  const server = createServer().listen(config.PORT, config.HOST);
  await once(server, 'listening').catch((error: Error) => {
    throw startError(error, config);
  });
  server.close();
  await once(server, 'close');
}

export function startError(error: ListenError, { HOST, PORT }: Config): Error {
  switch (error.syscall === 'getaddrinfo' ? 'ENOTFOUND' : error.code) {
    case 'ENOTFOUND':
    case 'EADDRNOTAVAIL':
    case 'EINVAL':
      return new Error(
        `HOST: "${HOST}" is no address of this machine (${error.code}); it takes an address to listen on, such as 127.0.0.1, 0.0.0.0 or ::. (conda sets HOST for its compilers: start with HOST=127.0.0.1.)`,
      );
    case 'EADDRINUSE':
      return new Error(
        `PORT: ${PORT} is taken at ${HOST}; another one, or 0 for any that is free, can be set.`,
      );
    case 'EACCES':
      return new Error(
        `PORT: this user may not listen on ${PORT} at ${HOST}; ports from 1024 are free to all.`,
      );
    default:
      return error;
  }
}
