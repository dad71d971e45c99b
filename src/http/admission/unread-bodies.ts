/**
 * Bodies that nobody wants. Many clients look for an answer only once they have sent everything, and do not see it when the
 * connection is closed before: for a moment the rest is received and thrown away, then it is cut off.
 *
 * Node copies each piece of a body for JavaScript, even if nobody reads it: a third of what it costs to refuse 50 kB, more than half
 * for 500 kB. Its parser passes over a body where it finds no function that takes the pieces. That is no documented interface: where
 * it is missing, pieces are made and dropped.
 */
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';

/** For what is left of a refused body: time, bytes, and pieces that they come in. */
const LINGER_MS = 2000;
const LINGER_BYTES = 2 ** 26;
const LINGER_PIECES = 2 ** 14;

interface Parser {
  [callback: number]: unknown;
  readonly constructor: { readonly kOnBody?: number };
}

/** Node's parser passes over what is still to come of this body. */
function passOver(request: IncomingMessage): void {
  const { socket } = request as { socket: Socket & { readonly parser?: Parser | null } };
  const { parser } = socket;
  const key = parser?.constructor.kOnBody;
  if (!parser || key === undefined || typeof parser[key] !== 'function') return;
  const taker = parser[key];
  parser[key] = undefined;
  // The parser goes on to the next request, or it is kept for another connection.
  const restore = () => {
    parser[key] = taker;
    socket.off('close', restore);
  };
  socket.prependListener('close', restore);
  // Nothing is pushed but the end.
  const { push } = request;
  request.push = (end) => {
    restore();
    return push.call(request, end);
  };
}

/** What comes of the body is dropped, and kept nowhere. */
export function drop(request: IncomingMessage): void {
  // Tiny pieces (chunks of the transfer coding) have a limit, so they are seen.
  if (request.headers['content-length'] !== undefined && !request.complete) passOver(request);
  request.resume();
}

/** The request has its answer: what is left of its body may still come, for a moment. */
export function discardRest(request: IncomingMessage): void {
  if (request.complete) return;
  // What has arrived while this thread was busy is read first.
  const timer = setTimeout(() => setImmediate(() => request.destroy()), LINGER_MS);
  request.once('close', () => clearTimeout(timer));
  if (Number(request.headers['content-length']) <= LINGER_BYTES) {
    drop(request);
    return;
  }
  let [bytes, pieces] = [0, 0];
  request.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > LINGER_BYTES || ++pieces > LINGER_PIECES) request.destroy();
  });
}
