/**
 * An API node and two workers that share nothing but a network, and a store that takes TLS and a password: each in a
 * network namespace of its own where that is permitted, else all on the loopback interface.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Redis } from 'ioredis';
import { freePort } from '../support/processes/free-port.js';
import { type GradientAnswer, startServer } from '../support/processes/server.js';
import { decodeAnswer } from '../support/wire/dialects.js';
import { canMakeNamespaces, makeNamespace, type Namespace } from './namespaces.js';
import { largeBody, type NodeProcess, startApi, startWorker } from './nodes.js';
import { startStore, withoutStore } from './store.js';

const WORKERS = 2;
const PASSWORD = 'a password: of @ll signs';
const MSGPACK = 'application/vnd.msgpack';
const LOOPBACK = { inside: [], address: '127.0.0.1', gateway: '127.0.0.1' };

/** A key and a certificate that is its own authority. */
function certify(folder: string, address: string) {
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  const subject = ['-subj', '/CN=loragrad-store', '-addext', `subjectAltName=IP:${address}`];
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
  const args = ['req', '-x509', '-nodes', '-days', '2', ...curve, ...subject];
  execFileSync('openssl', [...args, '-keyout', key, '-out', cert], { stdio: 'pipe' });
  return { key, cert };
}

async function gradientsOf(response: Response): Promise<GradientAnswer['gradients']> {
  assert.equal(response.status, 200);
  const bytes = new Uint8Array(await response.arrayBuffer());
  return (decodeAnswer(bytes, MSGPACK) as GradientAnswer).gradients;
}

test('TLS, a password, and nodes that are reached by the network alone: the same answers', {
  skip: withoutStore,
}, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'loragrad-tls-'));
  const namespaces: Namespace[] = [];
  if (canMakeNamespaces()) {
    for (let k = 0; k <= WORKERS; k++) namespaces.push(makeNamespace(k));
  }
  console.log(`# ${namespaces.length} network namespaces`);
  const place = (k: number) => namespaces[k] ?? LOOPBACK;
  const { gateway } = place(0);
  const port = await freePort();
  const { key, cert } = certify(folder, gateway);
  const files = ['--tls-cert-file', cert, '--tls-key-file', key, '--tls-ca-cert-file', cert];
  const store = await startStore(
    ...['--port', '0', '--tls-port', String(port), '--tls-auth-clients', 'no', ...files],
    ...['--bind', gateway, '--requirepass', PASSWORD],
  );
  const url = `rediss://:${encodeURIComponent(PASSWORD)}@${gateway}:${port}`;
  const nodes: NodeProcess[] = [];
  const alone = await startServer();
  try {
    const env = (k: number) => ({ NODE_EXTRA_CA_CERTS: cert, HOST: place(k).address });
    const api = await startApi(url, env(0), place(0).inside);
    nodes.push(api);
    const workers = Array.from({ length: WORKERS }, (_, k) =>
      startWorker(url, env(k + 1), place(k + 1).inside),
    );
    nodes.push(...(await Promise.all(workers)));
    const metric = async (name: string) => {
      const metrics = await (await fetch(`${api.url}/metrics`)).text();
      return Number(metrics.match(new RegExp(`^loragrad_queue_${name} (\\d+)$`, 'm'))?.[1]);
    };
    while ((await metric('workers')) < WORKERS) await new Promise((on) => setTimeout(on, 100));
    const options = { method: 'POST', headers: { 'content-type': MSGPACK } };
    const ask = async (k: number) => {
      const body = largeBody(k);
      const found = await gradientsOf(await fetch(`${api.url}/gradient`, { ...options, body }));
      const expected = await alone.post('/gradient', body, MSGPACK, MSGPACK);
      assert.deepEqual(found, await gradientsOf(expected));
    };
    await Promise.all(Array.from({ length: WORKERS }, (_, k) => ask(k)));
    while ((await metric('parts_sent')) < WORKERS) await new Promise((on) => setTimeout(on, 100));

    for (const stranger of [
      new Redis({ host: gateway, port, lazyConnect: true, retryStrategy: () => null }),
      new Redis(`rediss://${gateway}:${port}`, {
        ...{ lazyConnect: true, tls: { rejectUnauthorized: false }, retryStrategy: () => null },
      }),
    ]) {
      stranger.on('error', () => {});
      await assert.rejects(stranger.connect().then(() => stranger.get('any')));
      stranger.disconnect();
    }
  } finally {
    await Promise.all(nodes.map((node) => node.end()));
    await alone.close();
    await store.close();
    for (const one of namespaces) one.remove();
    rmSync(folder, { recursive: true });
  }
});
