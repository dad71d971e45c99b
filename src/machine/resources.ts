/** What this process may use of the machine: a container's limits count, Node does not know of them. */
import { readFileSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { dirname, join } from 'node:path';

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}

/**
 * Folders of the cgroup that the process is in, from the innermost to the root: each may have a limit, and
 * the least holds. In a container the own folder is mounted at the root, and the path leads nowhere.
 *
 * @param controller of cgroup v1, 'memory' or 'cpu'; v2 has one path for all.
 */
function cgroups(root: string, membership: string, controller: string): string[] {
  const folders: string[] = [];
  for (const line of (read(membership) ?? '0::/').split('\n')) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (path === undefined) continue;
    const base = controllers === '' ? root : join(root, controller);
    if (controllers !== '' && !controllers?.split(',').includes(controller)) continue;
    for (let at = path; ; at = dirname(at)) {
      folders.push(join(base, at));
      if (at === '/' || at === '.') break;
    }
  }
  return [...folders, root, join(root, controller)];
}

/** CPUs of a cgroup's quota (v2, then v1); infinity without one. */
function quota(folder: string): number {
  const [limit, period] = read(join(folder, 'cpu.max'))?.split(' ') ?? [
    read(join(folder, 'cpu.cfs_quota_us')) ?? 'max',
    read(join(folder, 'cpu.cfs_period_us')) ?? '100000',
  ];
  const cpus = Number(limit) / Number(period);
  return Number.isFinite(cpus) && cpus > 0 ? cpus : Number.POSITIVE_INFINITY;
}

/** Bytes of a cgroup's limit (v2, then v1); infinity without one. */
function memoryLimit(folder: string): number {
  const limit = Number(
    read(join(folder, 'memory.max')) ?? read(join(folder, 'memory.limit_in_bytes')),
  );
  // 'max' is NaN; without a cgroup there is null, which is 0.
  return limit > 0 ? limit : Number.POSITIVE_INFINITY;
}

const ROOT = '/sys/fs/cgroup';
const MEMBERSHIP = '/proc/self/cgroup';

/** At least one; a fraction of a CPU is rounded down, since a throttled thread delays the others. */
export function usableCpus(root = ROOT, membership = MEMBERSHIP): number {
  const quotas = cgroups(root, membership, 'cpu').map(quota);
  return Math.max(1, Math.floor(Math.min(availableParallelism(), ...quotas)));
}

/** Bytes of memory: the smallest of the machine's and the limits of all cgroups around the process. */
export function usableMemory(root = ROOT, membership = MEMBERSHIP): number {
  return Math.min(totalmem(), ...cgroups(root, membership, 'memory').map(memoryLimit));
}
