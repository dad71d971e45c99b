/** HTTPS, with a certificate that is renewed without a restart. */
import { readFileSync } from 'node:fs';
import type { Server } from 'node:https';
import { stampOf } from './file-stamp.js';

export interface TlsFiles {
  readonly cert: string;
  readonly key: string;
}

/** How often the files are looked at. */
const LOOK_MS = 10_000;

/** @throws {Error} when a file cannot be read. */
export function readTls({ cert, key }: TlsFiles): { cert: Buffer; key: Buffer } {
  return { cert: readFileSync(cert), key: readFileSync(key) };
}

/** @param failed told when the new files are no good; the old ones hold. */
export function renewTls(server: Server, files: TlsFiles, failed: (error: unknown) => void): void {
  const stamp = () => `${stampOf(files.cert)} ${stampOf(files.key)}`;
  let seen = stamp();
  const timer = setInterval(() => {
    try {
      const now = stamp();
      if (now === seen) return;
      seen = now;
      server.setSecureContext(readTls(files));
    } catch (error) {
      failed(error);
    }
  }, LOOK_MS);
  timer.unref();
  server.once('close', () => clearInterval(timer));
}
