/** All questions, in the order in which they run and are told. */
import { accuracy } from './accuracy.js';
import { certificate } from './certificate.js';
import { coverage } from './coverage.js';
import { eventLoop } from './event-loop.js';
import { exact } from './exact.js';
import { growth } from './growth.js';
import { overhead } from './overhead.js';
import type { Question } from './question.js';
import { threads } from './threads.js';
import { throughput } from './throughput.js';
import { transition } from './transition.js';

export const QUESTIONS: readonly Question[] = [
  exact,
  growth,
  accuracy,
  transition,
  certificate,
  coverage,
  threads,
  overhead,
  throughput,
  eventLoop,
];
