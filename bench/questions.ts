/** All questions, in the order in which they run and are told. */
import { exact, exact256 } from './exact.js';
import { growth } from './growth.js';
import { overhead } from './overhead.js';
import type { Question } from './question.js';
import { threads } from './threads.js';
import { throughput } from './throughput.js';

export const QUESTIONS: readonly Question[] = [
  exact,
  exact256,
  growth,
  threads,
  overhead,
  throughput,
];
