/** The log: for people where it ends on a terminal, JSON lines for machines everywhere else. */
import type { DestinationStream, LoggerOptions } from 'pino';
import type { Config } from '../../config.js';

/**
 * Lines are written together, so many characters or what has come in this time: a line alone takes as long as the head
 * of a request. Before the process ends, all are written.
 */
const TOGETHER = 4096;
const TOGETHER_MS = 100;

/** Of this process. */
let output: DestinationStream | undefined;

export async function loggerOptions({
  LOG_LEVEL,
}: Config): Promise<LoggerOptions & { readonly stream: DestinationStream }> {
  output ??= process.stdout.isTTY ? await forPeople() : forMachines();
  return { level: LOG_LEVEL, stream: output };
}

async function forPeople(): Promise<DestinationStream> {
  // Nothing of it is loaded where it is not used.
  const { default: pretty } = await import('pino-pretty');
  // What a line tells is in its message; errors come with their stack.
  const options = { include: 'time,level,err', translateTime: 'SYS:HH:MM:ss' };
  return pretty({ ...options, destination: standardOutput() });
}

function forMachines(): DestinationStream {
  const stdout = standardOutput();
  let lines = '';
  let timer: NodeJS.Timeout | undefined;
  const flush = () => {
    clearTimeout(timer);
    timer = undefined;
    if (lines) stdout.write(lines);
    lines = '';
  };
  process.on('exit', flush);
  return {
    write(line) {
      lines += line;
      if (lines.length >= TOGETHER) flush();
      else timer ??= setTimeout(flush, TOGETHER_MS).unref();
    },
  };
}

/** That of Node: at its end the destination of pino tries for ever to write to a pipe that nobody reads any more. */
function standardOutput(): NodeJS.WriteStream {
  // Whoever reads the log may end before the service does.
  return process.stdout.on('error', () => {});
}
