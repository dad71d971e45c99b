/** The log: for people where it ends on a terminal, JSON lines for machines everywhere else. */
import { type DestinationStream, destination, type LoggerOptions } from 'pino';
import type { Config } from '../../config.js';

/**
 * Lines are written together, these bytes or what has come in this time: a line alone takes as long as the head of a
 * request. Before the process ends, all are written.
 */
const TOGETHER_BYTES = 4096;
const TOGETHER_MS = 100;

export async function loggerOptions({
  LOG_LEVEL,
}: Config): Promise<LoggerOptions & { readonly stream: DestinationStream }> {
  return { level: LOG_LEVEL, stream: process.stdout.isTTY ? await forPeople() : forMachines() };
}

async function forPeople(): Promise<DestinationStream> {
  // Nothing of it is loaded where it is not used.
  const { default: pretty } = await import('pino-pretty');
  // What a line tells is in its message; errors come with their stack.
  return pretty({ include: 'time,level,err', translateTime: 'SYS:HH:MM:ss', sync: true });
}

function forMachines(): DestinationStream {
  const [minLength, periodicFlush] = [TOGETHER_BYTES, TOGETHER_MS];
  return destination({ dest: 1, sync: false, minLength, periodicFlush });
}
