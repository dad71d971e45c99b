/** Requests that Node cannot parse: they reach no route, and are answered on their socket. */
import { randomUUID } from 'node:crypto';
import { maxHeaderSize, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { ConnectionError, FastifyInstance } from 'fastify';
import { PROBLEM_MEDIA_TYPE, Problem, toProblem } from '../errors.js';
import { REQUEST_ID_HEADER } from './request-id.js';

/** Time for the client to read the answer before the connection is cut. */
const LINGER_MS = 500;
const GONE: ReadonlySet<string> = new Set(['ECONNRESET', 'HPE_INVALID_EOF_STATE']);
const REQUEST_LINE = /^([!#$%&'*+.^`|~\w-]+) (\S+) HTTP\/1\.[01]\r?\n/;

function problemOf(app: FastifyInstance, error: ConnectionError): Problem {
  const { code } = error;
  const { rawPacket, reason } = error as { rawPacket?: unknown; reason?: string };
  // What the parser was given last; Fastify's type of it is that of its JSON.
  const head = Buffer.isBuffer(rawPacket) ? rawPacket.toString('latin1') : '';
  if (code === 'HPE_INVALID_METHOD') {
    // A method that Node does not know is still a method.
    const [, method, address] = REQUEST_LINE.exec(head) ?? [];
    if (method) return app.noRoute(method, address);
  }
  if (code === 'HPE_HEADER_OVERFLOW') {
    const [requestLine] = head.split('\r\n', 1);
    return requestLine.length > maxHeaderSize / 2
      ? new Problem('uri-too-long', `Address and headers have more than ${maxHeaderSize} bytes.`)
      : new Problem('headers-too-large', `The headers have more than ${maxHeaderSize} bytes.`);
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return toProblem(error);
  return new Problem('bad-request', `This is not HTTP/1.1: ${reason ?? error.message}.`);
}

function rawAnswer(problem: Problem): string {
  const id = randomUUID();
  const body = JSON.stringify(problem.details(id));
  const headers = {
    ...problem.options.headers,
    'content-type': PROBLEM_MEDIA_TYPE,
    'content-length': Buffer.byteLength(body),
    [REQUEST_ID_HEADER]: id,
    connection: 'close',
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  const { statusCode } = problem;
  return `HTTP/1.1 ${statusCode} ${STATUS_CODES[statusCode]}\r\n${lines.join('')}\r\n${body}`;
}

/** For Fastify's option of this name. */
export function clientErrorHandler(
  this: FastifyInstance,
  error: ConnectionError,
  socket: Socket,
): void {
  // A client that has gone in the middle of its request gets no answer.
  if (GONE.has(error.code) || socket.destroyed) {
    socket.destroy();
    return;
  }
  // What follows the broken request is broken too, and has been answered.
  if (socket.writableEnded) return;
  const { _httpMessage: current } = socket as Socket & { _httpMessage?: ServerResponse };
  // Another answer is being sent: this one cannot be.
  if (current?.headersSent) {
    socket.destroy(error);
    return;
  }
  const problem = problemOf(this, error);
  this.log.info({ problem: problem.kind, client: socket.remoteAddress }, problem.message);
  this.metrics.problems.inc({ type: problem.kind });
  socket.end(rawAnswer(problem));
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
}
