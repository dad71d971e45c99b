/** What a worker thread runs: its timeslice at a stage, tasks of any kernel; the outcome as a value. */
import { Board } from './board.js';
import { type Cancelled, CancelledError, type RunStage } from './job.js';
import { giveWay } from './priority.js';
import { giveBack, type RestTask } from './tasks/rest.js';
import { type AnyTask, runTask } from './tasks/run.js';
import { type JoinTask, join, Team } from './team.js';
import {
  type TaskResult,
  TIMESLICE_MS,
  type Timeslice,
  type TimesliceOutcome,
} from './timeslice.js';
import { renewWasm, wasm } from './wasm.js';

giveWay();

type WorkerTask = AnyTask | RestTask | JoinTask;

/** A thread that only waits for its next turn sees no events, and frees no port that it has closed. */
const MOST_CLOSED = 32;
let closed = 0;

function run(task: WorkerTask, cancelled: Cancelled, all?: RunStage): unknown {
  if (task.kernel === 'team') {
    closed++;
    return join(task, cancelled, (one, stopped) => run(one as WorkerTask, stopped));
  }
  if (task.kernel !== 'rest') return runTask(task, wasm, cancelled, all);
  renewWasm();
  return giveBack();
}

/** Timeslices at brief stages, one after the other in the time of one; or one at any stage. An outcome for each. */
export default function takeTurn(
  turn: readonly Timeslice[],
): TimesliceOutcome[] | Promise<TimesliceOutcome[]> {
  const end = performance.now() + TIMESLICE_MS;
  const outcomes = turn.map((timeslice, k): TimesliceOutcome => {
    const isLate = k > 0 && performance.now() >= end;
    return isLate ? { status: 'left' } : takeTimeslice(timeslice, end);
  });
  if (closed < MOST_CLOSED) return outcomes;
  closed = 0;
  return new Promise((resolve) => setImmediate(resolve, outcomes));
}

function takeTimeslice(
  { tasks, first, stride, board: words, others }: Timeslice,
  end: number,
): TimesliceOutcome {
  const board = new Board(words);
  const beat = board.beatOf(first);
  const cancelled = Object.assign(
    () => {
      Atomics.add(beat, 0, 1);
      return board.stopped;
    },
    { words: { stop: board.stopWord, beat } },
  );
  const team = others && new Team(others, cancelled);
  closed += others?.ports.length ?? 0;
  const results: TaskResult[] = [];
  try {
    for (let index: number | null = first; index !== null; ) {
      const before = stride === null ? -1 : index - stride;
      if (cancelled() || (before >= 0 && !board.waitFor(before, cancelled)))
        throw new CancelledError();
      const value = run(tasks[index - first] as WorkerTask, cancelled, team?.all);
      results.push({ index, value });
      board.finish(index);
      index = performance.now() < end ? board.begin(first + tasks.length) : null;
    }
    return { status: 'done', results };
  } catch (error) {
    if (error instanceof CancelledError) return { status: 'cancelled' };
    const { message, stack } = error as Error;
    return { status: 'failed', message, stack };
  } finally {
    team?.close();
  }
}
