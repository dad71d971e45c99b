/** Requests at a rate that does not wait for answers, or as fast as answers come; every answer is counted. */
import type { Body } from '../support/body.js';
import { messagePackBody } from '../support/body.js';
import { httpRequest } from '../support/http-load.js';
import { makeProblem } from '../support/subject.js';
import type { Answer, Client } from './client.js';

export interface Kind {
  readonly name: string;
  readonly bytes: Buffer;
  /** How many of a hundred requests. */
  readonly share: number;
}

export interface Tally {
  /** By status, as client.ts has it. */
  readonly statuses: Record<string, number>;
  /** Milliseconds of those that were answered with 200. */
  readonly latencies: number[];
  /** What is known of those that got no whole answer. */
  readonly losses: string[];
}

const body = (length: number, dim: number): Body =>
  messagePackBody(makeProblem({ length, dim, adapters: 'qv' }));

/** Nine small requests for a large one. */
export function mixture(): Kind[] {
  return [
    { name: 'small', bytes: httpRequest('POST', '/gradient', body(128, 32)), share: 90 },
    { name: 'large', bytes: httpRequest('POST', '/gradient', body(2048, 32)), share: 10 },
  ];
}

const emptyTally = (): Tally => ({ statuses: {}, latencies: [], losses: [] });

export type Tallies = Readonly<Record<string, Tally>>;

function tallies(kinds: readonly Kind[]): Tallies {
  return Object.fromEntries(kinds.map(({ name }) => [name, emptyTally()]));
}

async function count(client: Client, kind: Kind, all: Tallies): Promise<Answer> {
  const { statuses, latencies, losses } = all[kind.name] as Tally;
  const start = performance.now();
  const answer = await client.send(kind.bytes);
  statuses[answer.status] = (statuses[answer.status] ?? 0) + 1;
  if (answer.status === '200') latencies.push(performance.now() - start);
  if (answer.loss) losses.push(answer.loss);
  return answer;
}

/** The kinds in turn, by their shares. */
function* inTurn(kinds: readonly Kind[]): Generator<Kind> {
  const due = kinds.map(({ share }) => share);
  for (;;) {
    const next = due.indexOf(Math.max(...due));
    for (const [k, { share }] of kinds.entries()) due[k]! += share;
    due[next]! -= 100;
    yield kinds[next] as Kind;
  }
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** `connections` clients of one address, each of which sends when it has its answer. */
export async function closedLoop(
  client: Client,
  kinds: readonly Kind[],
  { connections, seconds }: { connections: number; seconds: number },
): Promise<Tallies> {
  const all = tallies(kinds);
  const turn = inTurn(kinds);
  const end = performance.now() + 1000 * seconds;
  const drive = async () => {
    while (performance.now() < end) await count(client, turn.next().value, all);
  };
  await Promise.all(Array.from({ length: connections }, drive));
  return all;
}

/** So many requests a second, whatever becomes of them. */
export async function openLoop(
  client: Client,
  kinds: readonly Kind[],
  { rate, seconds }: { rate: number; seconds: number },
): Promise<Tallies> {
  const all = tallies(kinds);
  const turn = inTurn(kinds);
  const start = performance.now();
  const sent: Promise<unknown>[] = [];
  for (let elapsed = 0; elapsed < seconds; elapsed = (performance.now() - start) / 1000) {
    while (sent.length < rate * elapsed) sent.push(count(client, turn.next().value, all));
    await sleep(2);
  }
  await Promise.all(sent);
  return all;
}

/** One connection that waits as long as it is told to. @returns also how often it was refused. */
export async function politeLoop(
  client: Client,
  kind: Kind,
  seconds: number,
): Promise<{ tally: Tally; refused: number }> {
  const all = tallies([kind]);
  const end = performance.now() + 1000 * seconds;
  let refused = 0;
  while (performance.now() < end) {
    const { status, retryAfter } = await count(client, kind, all);
    if (status === '200') continue;
    refused++;
    await sleep(1000 * Math.max(1, retryAfter));
  }
  return { tally: all[kind.name] as Tally, refused };
}

/** Status by status, of all kinds together. */
export function statusesOf(all: Tallies): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const { statuses } of Object.values(all)) {
    for (const [status, n] of Object.entries(statuses)) sum[status] = (sum[status] ?? 0) + n;
  }
  return sum;
}

export function lossesOf(all: Tallies): string[] {
  return Object.values(all).flatMap(({ losses }) => losses);
}
