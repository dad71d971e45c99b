/** What this process may use of the machine: a container's limits count, Node does not know of them. */
import { readFileSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}

/** CPUs of the cgroup's quota (v2, then v1), or null without one. */
function quota(root: string): number | null {
  const [limit, period] = read(`${root}/cpu.max`)?.split(' ') ?? [
    read(`${root}/cpu/cpu.cfs_quota_us`) ?? 'max',
    read(`${root}/cpu/cpu.cfs_period_us`) ?? '100000',
  ];
  const cpus = Number(limit) / Number(period);
  return Number.isFinite(cpus) && cpus > 0 ? cpus : null;
}

/** At least one; a fraction of a CPU is rounded down, since a throttled thread delays the others. */
export function usableCpus(cgroupRoot = '/sys/fs/cgroup'): number {
  const cpus = Math.min(availableParallelism(), quota(cgroupRoot) ?? Number.POSITIVE_INFINITY);
  return Math.max(1, Math.floor(cpus));
}

/** Bytes of memory: the smaller of the machine's and the cgroup's limit (v2, then v1). */
export function usableMemory(cgroupRoot = '/sys/fs/cgroup'): number {
  const limit = Number(
    read(`${cgroupRoot}/memory.max`) ?? read(`${cgroupRoot}/memory/memory.limit_in_bytes`),
  );
  // 'max' is NaN; without a cgroup there is null, which is 0.
  return limit > 0 ? Math.min(totalmem(), limit) : totalmem();
}
