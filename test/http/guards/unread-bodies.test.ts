import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { after, test } from 'node:test';
import { httpRequest } from '../../../bench/support/http-load.js';
import { discardRest, drop } from '../../../src/http/admission/unread-bodies.js';

/** Pieces of dropped bodies that came to JavaScript. */
let pieces = 0;

/** Answers with the length of the body, or nothing where its address says so. */
const server = createServer(async (request, response) => {
  if (request.url === '/drop') {
    const { push } = request;
    request.push = (piece) => {
      if (piece !== null) pieces++;
      return push.call(request, piece);
    };
    drop(request);
    await new Promise(setImmediate);
    discardRest(request);
    response.end('dropped\n');
  } else {
    response.end(`${await lengthOf(request)}\n`);
  }
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');
after(() => server.close());
const { port } = server.address() as AddressInfo;

async function lengthOf(request: IncomingMessage): Promise<number> {
  let length = 0;
  for await (const piece of request) length += piece.length;
  return length;
}

const request = (path: string, length: number) =>
  httpRequest('POST', path, { contentType: 'x/y', bytes: Buffer.alloc(length) });

/** The last lines of the answers. */
async function answersTo(bytes: Buffer, wanted: number): Promise<string[]> {
  const socket = connect(port, '127.0.0.1');
  socket.write(bytes);
  let text = '';
  const lines = () => [...text.matchAll(/^(?:dropped|\d+)$/gm)].map(([line]) => line);
  for await (const chunk of socket) {
    text += chunk;
    if (lines().length === wanted) break;
  }
  return lines();
}

test('a dropped body does not come to JavaScript, and the request that follows it has its own', async () => {
  pieces = 0;
  const all = [
    request('/drop', 500_000),
    request('/read', 300_000),
    request('/drop', 10),
    request('/drop', 0),
    request('/read', 7),
  ];
  const answers = await answersTo(Buffer.concat(all), all.length);
  assert.deepEqual(answers, ['dropped', '300000', 'dropped', 'dropped', '7']);
  assert.equal(pieces, 0);
});

test('a dropped body of unknown length ends where it ends', async () => {
  const chunked = Buffer.from(
    'POST /drop HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n',
  );
  const answers = await answersTo(Buffer.concat([chunked, request('/read', 99)]), 2);
  assert.deepEqual(answers, ['dropped', '99']);
});

test('connections that are cut in the middle of dropped bodies take nothing from those that follow', async () => {
  const half = request('/drop', 100_000).subarray(0, 70_000);
  for (let n = 0; n < 5; n++) {
    const sockets = Array.from({ length: 8 }, () => connect(port, '127.0.0.1'));
    await Promise.all(
      sockets.map((socket) => {
        socket.write(half);
        return once(socket, 'data');
      }),
    );
    for (const socket of sockets) socket.destroy();
    const follow = sockets.map(() => answersTo(request('/read', 5000), 1));
    for (const [answer] of await Promise.all(follow)) assert.equal(answer, '5000');
  }
});
