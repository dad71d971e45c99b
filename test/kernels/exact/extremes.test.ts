/** Rows whose softmax is decided before it begins. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AttentionProblem } from '../../../workers/problem.js';
import { loadEvery } from '../builds.js';
import { randomProblem, tensor } from '../problems.js';
import { distance, exact, named, norm, reference } from '../run.js';

const builds = Object.values(loadEvery());

function close(problem: AttentionProblem, tolerance: number): void {
  const truth = reference(problem);
  for (const wasm of builds) {
    const answer = exact(problem, wasm, true);
    const output = distance(answer.attentionOutput!, truth.attentionOutput!);
    assert.ok(output <= tolerance * norm(truth.attentionOutput!), `output: ${output}`);
    const expected = named(truth);
    // Gradients may vanish where those of the values do not: these set the scale.
    const scale = norm(expected.get('v_proj.lora_B')!);
    for (const [name, gradient] of named(answer)) {
      assert.ok(gradient.every(Number.isFinite), name);
      const error = distance(gradient, expected.get(name)!);
      assert.ok(
        error <= tolerance * Math.max(norm(expected.get(name)!), scale),
        `${name}: ${error}`,
      );
    }
  }
}

/** X with the same row everywhere. */
function equalRows(problem: AttentionProblem): AttentionProblem {
  const { shape, data, dtype } = problem.inputs.query;
  const columns = shape.at(-1)!;
  const X = tensor([...shape], dtype as 'float32', (k) => data[k % columns]!);
  return { ...problem, inputs: { query: X, key: X, value: X } };
}

test('logits of ten thousand: one key takes all, nothing overflows', () => {
  const problem = randomProblem({ seed: 3, queryLength: 90, dtype: 'float32' });
  close({ ...problem, scaling: 4000 }, 2e-2);
});

test('equal keys: weights are equal, gradients of scores vanish', () => {
  close(equalRows(randomProblem({ seed: 4, queryLength: 130 })), 1e-5);
  close(equalRows(randomProblem({ seed: 4, queryLength: 130, causal: true })), 1e-5);
});

test('a single key: weight one, and no gradient at all for queries and keys', () => {
  const problem = randomProblem({ seed: 5, queryLength: 40, keyLength: 1 });
  for (const wasm of builds) {
    const { q_proj, k_proj } = exact(problem, wasm).gradients;
    for (const gradient of [q_proj!.lora_A, q_proj!.lora_B, k_proj!.lora_A, k_proj!.lora_B]) {
      assert.ok(gradient.every((x) => x === 0));
    }
  }
});

test('lora_B is zero at the start of training: so is the gradient of lora_A', () => {
  const problem = randomProblem({ seed: 6, queryLength: 100 });
  for (const { adapter } of Object.values(problem.projections)) adapter?.B.data.fill(0);
  for (const wasm of builds) {
    for (const [name, gradient] of named(exact(problem, wasm))) {
      assert.equal(
        gradient.every((x) => x === 0),
        name.endsWith('lora_A'),
        name,
      );
    }
  }
});
