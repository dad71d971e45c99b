/** The log: for people where it ends on a terminal, JSON lines for machines everywhere else. */
import type { LoggerOptions } from 'pino';
import type { Config } from '../../config.js';

export async function loggerOptions({
  LOG_LEVEL,
}: Config): Promise<LoggerOptions & { readonly stream?: NodeJS.WritableStream }> {
  if (!process.stdout.isTTY) return { level: LOG_LEVEL };
  // Nothing of it is loaded where it is not used.
  const { default: pretty } = await import('pino-pretty');
  // What a line tells is in its message; errors come with their stack.
  const stream = pretty({ include: 'time,level,err', translateTime: 'SYS:HH:MM:ss', sync: true });
  return { level: LOG_LEVEL, stream };
}
