/** The log, on standard output: for people where that is a terminal, JSON lines for machines everywhere else. */
import { writeSync } from 'node:fs';
import type { DestinationStream, LoggerOptions } from 'pino';
import type { Config } from '../../settings.js';
import { LineWriter } from './line-writer.js';

/** The destination of this process, made once. */
let output: DestinationStream | undefined;

export async function loggerOptions({
  LOG_LEVEL,
}: Config): Promise<LoggerOptions & { readonly stream: DestinationStream }> {
  output ??= await standardOutput();
  return { level: LOG_LEVEL, stream: output };
}

async function standardOutput(): Promise<DestinationStream> {
  // Asking Node for its stream makes a pipe non-blocking. The stream itself cannot be used after its first error.
  const { fd, isTTY } = process.stdout;
  const lines = new LineWriter((bytes) => writeSync(fd, bytes));
  process.on('exit', () => lines.end());
  if (!isTTY) return lines;
  // Nothing of it is loaded where it is not used.
  const { prettyFactory } = await import('pino-pretty');
  // What a line tells is in its message; errors come with their stack.
  const pretty = prettyFactory({ include: 'time,level,err', translateTime: 'SYS:HH:MM:ss' });
  return { write: (line) => lines.write(pretty(line)) };
}
