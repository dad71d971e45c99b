/** Requests that stay where they are until they are let go. */
import { connect, type Socket } from 'node:net';
import { FLOAT64, longBody } from '../wire/bodies.js';

function open(url: string): Socket {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  socket.on('error', () => {});
  return socket;
}

/** A request that sends all of its body but the last byte. */
export function unfinishedRequest(url: string, bytes: number): Socket {
  const socket = open(url);
  socket.write(
    `POST /gradient HTTP/1.1\r\nhost: x\r\ncontent-type: application/msgpack\r\ncontent-length: ${bytes + 1}\r\n\r\n`,
  );
  socket.write(Buffer.alloc(bytes));
  return socket;
}

/** A request that takes a place and computes for a minute, or some seconds at 3500 rows, unless its socket is destroyed. */
export function longRequest(url: string, rows = 12_000): Socket {
  const socket = open(url);
  const body = longBody(rows, 16, FLOAT64);
  socket.write(
    `POST /gradient HTTP/1.1\r\nhost: x\r\ncontent-type: application/msgpack\r\ncontent-length: ${body.length}\r\n\r\n`,
  );
  socket.write(body);
  return socket;
}

/** Resolves when a metric has a value. */
export const metricIs = (
  url: string,
  name: string,
  value: number,
  headers: Record<string, string> = {},
): Promise<void> => metricMatches(url, name, (found) => found === value, headers);

/** Resolves when a metric has a value or more: one that goes on to grow may never be seen at the value itself. */
export const metricReaches = (url: string, name: string, value: number): Promise<void> =>
  metricMatches(url, name, (found) => found >= value, {});

const MOST_WAIT_MS = 50;

async function metricMatches(
  url: string,
  name: string,
  matches: (value: number) => boolean,
  headers: Record<string, string>,
): Promise<void> {
  const line = new RegExp(`^${name} (\\S+)$`, 'm');
  // Often at first: what is brief is to be seen. What takes longer is not to cost more than what is waited for.
  for (let wait = 2; ; wait = Math.min(1.2 * wait, MOST_WAIT_MS)) {
    const [, found] = line.exec(await (await fetch(`${url}/metrics`, { headers })).text()) ?? [];
    if (found !== undefined && matches(Number(found))) return;
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}
