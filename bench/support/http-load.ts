/**
 * The same request again and again over several connections, as fast as the answers come. Plain
 * sockets: a full HTTP client would take more of the shared processors than the service does, and
 * copies a large body before it sends it.
 */
import { connect, type Socket } from 'node:net';

export interface LoadResult {
  readonly requests: number;
  readonly seconds: number;
  /** Seconds of each request. */
  readonly latencies: readonly number[];
}

export function httpRequest(
  method: string,
  path: string,
  body?: { contentType: string; bytes: Buffer },
  accept = '*/*',
): Buffer {
  const type = body
    ? `Content-Type: ${body.contentType}\r\nContent-Length: ${body.bytes.length}\r\n`
    : '';
  const head = Buffer.from(
    `${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: ${accept}\r\n${type}\r\n`,
  );
  return body ? Buffer.concat([head, body.bytes]) : head;
}

/** @throws {Error} on the first answer that is not 200. */
export async function load(
  port: number,
  request: Buffer,
  options: { connections: number; seconds: number },
): Promise<LoadResult> {
  const sockets = await Promise.all(
    Array.from({ length: options.connections }, () => connected(port)),
  );
  const latencies: number[] = [];
  const start = performance.now();
  const end = start + options.seconds * 1000;
  const drive = async (socket: Socket) => {
    for (let sent = performance.now(); sent < end; sent = performance.now()) {
      await exchange(socket, request);
      latencies.push((performance.now() - sent) / 1000);
    }
  };
  try {
    await Promise.all(sockets.map(drive));
  } finally {
    for (const socket of sockets) socket.destroy();
  }
  const seconds = (performance.now() - start) / 1000;
  return { requests: latencies.length, seconds, latencies };
}

export function connected(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    socket.once('error', reject);
    socket.once('connect', () => resolve(socket));
  });
}

/**
 * Send, and wait for the last byte of the answer, whose head says how long it is.
 *
 * @returns the body of the answer.
 * @throws {Error} unless the answer is 200.
 */
export function exchange(socket: Socket, request: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let answer: Buffer = Buffer.alloc(0);
    const settle = (result: Error | Buffer) => {
      socket.off('data', read).off('error', settle).off('close', closed);
      if (result instanceof Error) reject(result);
      else resolve(result);
    };
    const closed = () => settle(new Error('The service closed the connection'));
    const read = (chunk: Buffer) => {
      answer = answer.length === 0 ? chunk : Buffer.concat([answer, chunk]);
      const head = answer.indexOf('\r\n\r\n');
      if (head < 0) return;
      const text = answer.toString('latin1', 0, head);
      const length = Number(/content-length: (\d+)/i.exec(text)?.[1]);
      if (Number.isNaN(length)) return settle(new Error(`An answer without a length: ${text}`));
      if (answer.length < head + 4 + length) return;
      const ok = text.startsWith('HTTP/1.1 200');
      settle(ok ? answer.subarray(head + 4) : new Error(answer.toString()));
    };
    socket.on('data', read).on('error', settle).on('close', closed);
    socket.write(request);
  });
}
