import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { usableCpus, usableMemory } from '../../src/machine/resources.js';

const folder = () => mkdtempSync(join(tmpdir(), 'cgroup-'));

test('without a cgroup, what Node says', () => {
  assert.equal(usableCpus(folder()), availableParallelism());
});

test('cgroup v2: a quota of 1.5 CPUs is one worker, "max" is no quota', () => {
  const root = folder();
  writeFileSync(join(root, 'cpu.max'), '150000 100000\n');
  assert.equal(usableCpus(root), 1);
  writeFileSync(join(root, 'cpu.max'), 'max 100000\n');
  assert.equal(usableCpus(root), availableParallelism());
});

test('cgroup v1: a quota of half a CPU is still one worker, -1 is no quota', () => {
  const root = folder();
  mkdirSync(join(root, 'cpu'));
  writeFileSync(join(root, 'cpu', 'cpu.cfs_period_us'), '100000\n');
  writeFileSync(join(root, 'cpu', 'cpu.cfs_quota_us'), '50000\n');
  assert.equal(usableCpus(root), 1);
  writeFileSync(join(root, 'cpu', 'cpu.cfs_quota_us'), '-1\n');
  assert.equal(usableCpus(root), availableParallelism());
});

test('memory: the limit of a cgroup, v2 or v1, and never more than there is', () => {
  assert.equal(usableMemory(folder()), totalmem());
  const v2 = folder();
  writeFileSync(join(v2, 'memory.max'), '1048576\n');
  assert.equal(usableMemory(v2), 1048576);
  writeFileSync(join(v2, 'memory.max'), 'max\n');
  assert.equal(usableMemory(v2), totalmem());
  const v1 = folder();
  mkdirSync(join(v1, 'memory'));
  writeFileSync(join(v1, 'memory', 'memory.limit_in_bytes'), '2097152\n');
  assert.equal(usableMemory(v1), 2097152);
  writeFileSync(join(v1, 'memory', 'memory.limit_in_bytes'), '9223372036854771712\n');
  assert.equal(usableMemory(v1), totalmem());
});

test('a nested cgroup: the least limit on the way from its folder to the root holds', () => {
  const root = folder();
  const membership = join(root, 'membership');
  writeFileSync(membership, '0::/outer/inner\n');
  mkdirSync(join(root, 'outer', 'inner'), { recursive: true });
  writeFileSync(join(root, 'outer', 'inner', 'memory.max'), 'max\n');
  writeFileSync(join(root, 'outer', 'memory.max'), '3145728\n');
  writeFileSync(join(root, 'outer', 'inner', 'cpu.max'), '100000 100000\n');
  assert.equal(usableMemory(root, membership), 3145728);
  assert.equal(usableCpus(root, membership), 1);
});

test('a nested cgroup of v1: each controller has a path of its own', () => {
  const root = folder();
  const membership = join(root, 'membership');
  writeFileSync(membership, '4:memory:/a\n3:cpu,cpuacct:/b\n1:name=systemd:/c\n');
  mkdirSync(join(root, 'memory', 'a'), { recursive: true });
  mkdirSync(join(root, 'cpu', 'b'), { recursive: true });
  writeFileSync(join(root, 'memory', 'a', 'memory.limit_in_bytes'), '4194304\n');
  writeFileSync(join(root, 'cpu', 'b', 'cpu.cfs_quota_us'), '100000\n');
  writeFileSync(join(root, 'cpu', 'b', 'cpu.cfs_period_us'), '100000\n');
  assert.equal(usableMemory(root, membership), 4194304);
  assert.equal(usableCpus(root, membership), 1);
});
