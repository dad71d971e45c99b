/**
 * What `npm test` prints: TAP, which can be counted, and as its last lines the name and the message of each test that
 * failed. At a terminal the reporter of Node, which ends in the same way.
 */
import { spec, tap } from 'node:test/reporters';

/** A parent of a test that failed says no more than that one did. */
const OF_OTHERS = 'subtestsFailed';

async function* endsWithFailures(events) {
  const failed = [];
  const noted = (async function* () {
    for await (const event of events) {
      if (event.type === 'test:fail') note(event.data, failed);
      yield event;
    }
  })();
  yield* tap(noted);
  for (const line of failed) yield `${line}\n`;
}

function note({ name, file, todo, details: { error } }, failed) {
  if (todo !== undefined || error.failureType === OF_OTHERS) return;
  const { cause, message, exitCode } = error;
  const why = exitCode ? `it ended with exit code ${exitCode}` : String(cause?.message ?? message);
  failed.push(`# failed: ${name} (${file}): ${why.replace(/\s+/g, ' ').trim()}`);
}

export default process.stdout.isTTY ? spec : endsWithFailures;
