/** Real answers of the service to the examples, and a real problem of each kind: npm run examples records them. */
import { readFileSync } from 'node:fs';
import type { ProblemDetails } from '../../errors.js';

export interface RecordedAnswer {
  readonly status: number;
  readonly body: unknown;
}

export interface Recorded {
  /** By operationId and by name of the example. */
  readonly answers: Readonly<Record<string, Readonly<Record<string, RecordedAnswer>>>>;
  /** By kind. */
  readonly problems: Readonly<Record<string, ProblemDetails>>;
}

/** From dist/src/http/schemas. */
const FILE = new URL('../../../../openapi/answers.json', import.meta.url);

export function readRecorded(): Recorded {
  return JSON.parse(readFileSync(FILE, 'utf8')) as Recorded;
}
