import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { usableCpus } from '../../src/pool/cpus.js';

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
