/** All questions, in the order in which they run and are told. */
import { accuracy } from './accuracy/accuracy.js';
import { certificate } from './certificate.js';
import { coverage } from './coverage/coverage.js';
import { eventLoop } from './event-loop.js';
import { exact } from './exact/exact.js';
import { growth } from './growth/growth.js';
import { overhead } from './overhead.js';
import type { Question } from './question.js';
import { threads } from './threads.js';
import { throughput } from './throughput.js';
import { transition } from './transition/transition.js';

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
