/** Workers that end under load, and SIGTERM under load: every answer is right or a problem, and none is cut. */
import { createHash } from 'node:crypto';
import { unpack } from 'msgpackr/unpack';
import { messagePackBody } from '../support/body.js';
import { httpRequest } from '../support/http-load.js';
import { Service } from '../support/service.js';
import { makeProblem } from '../support/subject.js';
import { type Answer, Client } from './client.js';
import { none, otherThan, type TrialResult, told } from './trial.js';

const LANES = 12;
const CHANCE = '0.005';
const deadly = new URL('./deadly-workers.js', import.meta.url).href;

/** Stands where the seed of a request is; its bytes are nowhere else in it. */
const MARK = 0x7e57_5eed;

/**
 * Requests that differ in their seeds alone, which the exact kernel's gradients do not depend on: a body that has ended
 * two workers is refused for a while, and no other is to be.
 */
class Requests {
  readonly #bytes: Buffer;
  readonly #at: number;
  #next = 0;

  constructor(
    readonly name: string,
    length: number,
  ) {
    const problem = makeProblem({ length, dim: 32, adapters: 'qv' });
    const body = messagePackBody(problem, { method: 'exact', seed: MARK });
    this.#bytes = httpRequest('POST', '/gradient', body);
    const mark = Buffer.alloc(4);
    mark.writeUInt32BE(MARK);
    this.#at = this.#bytes.indexOf(mark);
  }

  next(): Buffer {
    const bytes = Buffer.from(this.#bytes);
    bytes.writeUInt32BE(this.#next++, this.#at);
    return bytes;
  }
}

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

const LOST = ['cut', 'truncated', 'hangs', 'refused'];

class Witness {
  /** By status; with a problem its type. */
  readonly outcomes: Record<string, number> = {};
  readonly #losses: string[] = [];
  readonly #right = new Map<string, string>();
  #wrong = 0;

  see(name: string, { status, body, loss }: Answer, late: boolean): void {
    if (late && LOST.includes(status)) return this.#count('not accepted');
    if (loss) this.#losses.push(loss);
    const type = status === '200' || loss ? '' : ` ${JSON.parse(String(body)).type}`;
    this.#count(`${status}${type.replace('urn:loragrad:problem:', '')}`);
    if (status !== '200') return;
    const digest = digestOf(body);
    if (!this.#right.has(name)) this.#right.set(name, digest);
    if (this.#right.get(name) !== digest) this.#wrong++;
  }

  /** @param problems that the trial makes likely. */
  targets(problems: readonly string[]): TrialResult['targets'] {
    const right = ['200', 'not accepted', '429 queue-full', ...problems];
    const others = otherThan([...right, ...LOST], this.outcomes);
    return [
      none('wrong answers', this.#wrong),
      none('request that was accepted and cut, or hangs', this.#losses.length, this.#losses),
      none('other problems', others),
    ];
  }

  #count(outcome: string): void {
    this.outcomes[outcome] = (this.outcomes[outcome] ?? 0) + 1;
  }
}

/**
 * Sends until `done`, over many connections; those that find the port closed stop.
 *
 * @param end performance.now() when the service was told to end: what is sent after that may find the port closing,
 *   and is then not accepted; what was sent before is.
 */
async function bombard(
  service: Service,
  witness: Witness,
  done: () => boolean,
  end = () => Number.POSITIVE_INFINITY,
): Promise<void> {
  const kinds = [new Requests('small', 128), new Requests('large', 2048)] as const;
  const client = new Client(service.port);
  const lane = async (kind: Requests) => {
    while (!done()) {
      const answer = await client.send(kind.next());
      witness.see(kind.name, answer, answer.sent > end());
      if (answer.status === 'refused') return;
    }
  };
  await Promise.all(Array.from({ length: LANES }, (_, k) => lane(kinds[k % 4 === 0 ? 1 : 0])));
  client.close();
}

export async function deaths(wanted: number): Promise<TrialResult> {
  const service = await Service.start({
    workers: 2,
    env: { NODE_OPTIONS: `--import=${deadly}`, DEADLY_CHANCE: CHANCE },
  });
  const witness = new Witness();
  let restarts = 0;
  let watching = true;
  const watch = async () => {
    while (watching && restarts < wanted) {
      restarts = await service.metric('loragrad_worker_restarts_total');
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  };
  try {
    await Promise.all([watch(), bombard(service, witness, () => restarts >= wanted)]);
    const left = await service.metric('loragrad_inflight_requests');
    return {
      text: `${restarts} workers ended under load. ${told(witness.outcomes)}.`,
      targets: [
        ...witness.targets(['503 worker-lost', '422 ends-workers']),
        none('requests in flight at the end', left),
      ],
    };
  } finally {
    watching = false;
    await service.stop();
  }
}

export async function terms(rounds: number): Promise<TrialResult> {
  const witness = new Witness();
  const codes: Record<string, number> = {};
  for (let round = 0; round < rounds; round++) {
    const service = await Service.start({ workers: 2, env: { LORAGRAD_LAME_DUCK_MS: '300' } });
    let ended = false;
    let toldAt = Number.POSITIVE_INFINITY;
    const load = bombard(
      service,
      witness,
      () => ended,
      () => toldAt,
    );
    await new Promise((resolve) => setTimeout(resolve, 500 + 500 * Math.random()));
    toldAt = performance.now();
    const code = String(await service.stop());
    ended = true;
    codes[code] = (codes[code] ?? 0) + 1;
    await load;
  }
  const { '0': clean = 0, ...others } = codes;
  return {
    text: `${rounds} times SIGTERM under load. ${told(witness.outcomes)}; ${clean} times exit code 0.`,
    targets: [
      ...witness.targets(['503 shutting-down']),
      none('other exit codes', rounds - clean, [told(others)].filter(Boolean)),
    ],
  };
}
