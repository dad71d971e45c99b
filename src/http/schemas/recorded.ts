/** Real answers of the service to the examples, and a real problem of each kind: npm run examples records them. */
import { readFileSync } from 'node:fs';
import { packageFile } from '../../../workers/package-file.js';
import type { ProblemDetails } from '../../errors.js';

export interface RecordedAnswer {
  readonly status: number;
  readonly body: unknown;
}

export interface Recorded {
  /** By operationId and by name of the example. */
  readonly answers: Readonly<Record<string, Readonly<Record<string, RecordedAnswer>>>>;
  /** By kind of problem. */
  readonly problems: Readonly<Record<string, ProblemDetails>>;
}

const FILE = packageFile('openapi/answers.json');

export function readRecorded(): Recorded {
  return JSON.parse(readFileSync(FILE, 'utf8')) as Recorded;
}
