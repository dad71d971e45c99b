/** Node: its fetch gives up when the head of an answer takes longer than 300 s; node:http does not. */
import { type IncomingMessage, request as plainRequest } from 'node:http';
import { request as secureRequest } from 'node:https';
import type { Answer, Transport } from './transport.js';

async function readWhole(incoming: IncomingMessage): Promise<Answer> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) chunks.push(chunk as Buffer);
  const headers = Object.entries(incoming.headersDistinct).flatMap(([name, values]) =>
    (values ?? []).map((value): [string, string] => [name, value]),
  );
  return {
    status: incoming.statusCode as number,
    headers: new Headers(headers),
    body: Buffer.concat(chunks),
  };
}

export const transport: Transport = ({ url, method, headers, body, signal }) =>
  new Promise((resolve, reject) => {
    const fail = (error: unknown) => reject(signal?.aborted ? signal.reason : error);
    const request = url.protocol === 'https:' ? secureRequest : plainRequest;
    const length = body && { 'content-length': body.length };
    const outgoing = request(url, {
      method,
      headers: { ...headers, ...length },
      ...(signal && { signal }),
    });
    outgoing.on('response', (incoming) => readWhole(incoming).then(resolve, fail));
    outgoing.on('error', fail);
    outgoing.end(body);
  });
