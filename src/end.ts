/** How a process ends: on a signal, or an error that nobody has caught, when what is under way is done. */
import { closeSync } from 'node:fs';
import { isatty } from 'node:tty';
import closeWithGrace from 'close-with-grace';

/** Signals that a fault of native code raises. A process that listens to one repeats the faulty instruction for ever. */
const FAULTS = ['SIGILL', 'SIGTRAP', 'SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGSEGV'] as const;

interface Cause {
  readonly signal: string;
  /** null: there is none but the signal. */
  readonly error: Error | null;
}

/** @param delay longest time for it, ms; then the process ends all the same. */
export function endWithGrace(delay: number, end: (cause: Cause) => Promise<void>): void {
  let ending = false;
  const { close } = closeWithGrace(
    { delay, skip: [...FAULTS, 'SIGHUP'] },
    ({ signal = 'SIGHUP', err: error = null }) => {
      ending = true;
      return end({ signal, error });
    },
  );
  // A second signal ends it at once, but a terminal that goes away says so more than once.
  process.on('SIGHUP', () => {
    if (!ending) close();
  });
  const terminals = [0, 1, 2].filter((fd) => isatty(fd));
  // Node gives terminals their settings back at its end, and aborts where one is gone.
  process.on('exit', () => {
    for (const fd of terminals) if (!isatty(fd)) closeSync(fd);
  });
}
