/** Workers that end under load, and SIGTERM under load: every answer is right or a problem, and none is cut. */
import { createHash } from 'node:crypto';
import { unpack } from 'msgpackr/unpack';
import { Service } from '../support/service.js';
import { Client, mixture } from './traffic.js';

const LANES = 12;
const CHANCE = '0.002';
const deadly = new URL('./deadly-workers.js', import.meta.url).href;

/** The gradients of an answer: the same at any time, on any thread. */
function digestOf(body: Buffer): string {
  const { gradients } = unpack(body) as {
    gradients: Record<string, Record<string, { data: Buffer }>>;
  };
  const hash = createHash('sha256');
  for (const adapter of Object.values(gradients)) {
    for (const { data } of Object.values(adapter)) hash.update(data);
  }
  return hash.digest('hex');
}

class Witness {
  readonly outcomes: Record<string, number> = {};
  readonly #right = new Map<string, string>();
  wrong = 0;

  see(name: string, status: string, body: Buffer): void {
    const type = status === '200' || body.length === 0 ? '' : ` ${JSON.parse(String(body)).type}`;
    const outcome = `${status}${type.replace('urn:loragrad:problem:', '')}`;
    this.outcomes[outcome] = (this.outcomes[outcome] ?? 0) + 1;
    if (status !== '200') return;
    const digest = digestOf(body);
    if (!this.#right.has(name)) this.#right.set(name, digest);
    if (this.#right.get(name) !== digest) this.wrong++;
  }

  tell(): string {
    const all = Object.entries(this.outcomes).map(([outcome, n]) => `${outcome}: ${n}`);
    return `${all.join(', ')}; wrong answers: ${this.wrong}`;
  }
}

/**
 * Sends until `done`, over many connections; those that are refused a connection stop.
 *
 * @param late whether the service was told to end: what is sent from then on may find the port closing, and is then
 *   not accepted; what was sent before is.
 */
async function bombard(
  service: Service,
  witness: Witness,
  done: () => boolean,
  late = () => false,
): Promise<void> {
  const kinds = mixture();
  await Promise.all(
    Array.from({ length: LANES }, async (_, lane) => {
      const client = new Client(service.port);
      const kind = kinds[lane % 4 === 0 ? 1 : 0]!;
      while (!done()) {
        const wasLate = late();
        const { status, body } = await client.send(kind.bytes);
        if (status === 'refused') break;
        const closed = wasLate && status === 'cut';
        witness.see(kind.name, closed ? 'not accepted' : status, body);
      }
      client.close();
    }),
  );
}

export async function deaths(wanted: number): Promise<string> {
  const service = await Service.start({
    workers: 2,
    env: { NODE_OPTIONS: `--import=${deadly}`, DEADLY_CHANCE: CHANCE },
  });
  const witness = new Witness();
  let restarts = 0;
  const timer = setInterval(async () => {
    restarts = await service.metric('loragrad_worker_restarts_total');
  }, 500);
  try {
    await bombard(service, witness, () => restarts >= wanted);
    return `${restarts} workers ended under load. ${witness.tell()}.`;
  } finally {
    clearInterval(timer);
    await service.stop();
  }
}

export async function terms(rounds: number): Promise<string> {
  const witness = new Witness();
  const codes: Record<string, number> = {};
  for (let round = 0; round < rounds; round++) {
    const service = await Service.start({ workers: 2, env: { LORAGRAD_LAME_DUCK_MS: '300' } });
    let ended = false;
    let told = false;
    const load = bombard(
      service,
      witness,
      () => ended,
      () => told,
    );
    await new Promise((resolve) => setTimeout(resolve, 500 + 500 * Math.random()));
    told = true;
    const code = await service.stop();
    ended = true;
    codes[String(code)] = (codes[String(code)] ?? 0) + 1;
    await load;
  }
  const exits = Object.entries(codes).map(([code, n]) => `${code}: ${n}`);
  return `${rounds} times SIGTERM under load. ${witness.tell()}; exit codes ${exits.join(', ')}.`;
}
