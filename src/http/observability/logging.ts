/** The log: for people where it ends on a terminal, JSON lines for machines everywhere else. */
import type { LoggerOptions } from 'pino';
import pretty from 'pino-pretty';
import type { Config } from '../../config.js';

export function loggerOptions({
  LOG_LEVEL,
}: Config): LoggerOptions & { readonly stream?: NodeJS.WritableStream } {
  if (!process.stdout.isTTY) return { level: LOG_LEVEL };
  // What a line tells is in its message; errors come with their stack.
  const stream = pretty({ include: 'time,level,err', translateTime: 'SYS:HH:MM:ss', sync: true });
  return { level: LOG_LEVEL, stream };
}
