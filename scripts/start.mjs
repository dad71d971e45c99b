/**
 * npm start: builds what is older than its sources, then serves.
 *
 * npm runs scripts in a shell and hands signals to that alone. Many shells end without passing them on, so that the
 * service ends, as on SIGTERM, when its shell is gone.
 */
import './build.mjs';

const shell = process.ppid;
const watch = setInterval(() => {
  if (process.ppid === shell) return;
  clearInterval(watch);
  process.kill(process.pid, 'SIGTERM');
}, 200).unref();

await import('../dist/src/main.js');
