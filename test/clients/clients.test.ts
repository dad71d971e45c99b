/**
 * Programs that people would write themselves, run against the service as other processes. Those in
 * Python are skipped where their packages are missing; the interpreter is $PYTHON, or python3.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { finiteDifferences } from '../support/finite-differences.js';
import type { GradientRequest } from '../support/fixtures.js';
import { plainLoss, plainProblem } from '../support/plain-loss.js';
import { sharedServer } from '../support/processes/server.js';
import { encodeValues, relativeError } from '../support/wire/wire-tensor.js';

const run = promisify(execFile);
const FOLDER = fileURLToPath(new URL('../../../test/clients/', import.meta.url));
const PYTHON = process.env.PYTHON || 'python3';
const TIMEOUT = 120_000;

const server = await sharedServer();

/** Why a command cannot run here, or false. */
async function missing(command: string, args: string[]): Promise<string | false> {
  try {
    await run(command, args, { timeout: TIMEOUT });
    return false;
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    return `${command}: ${stderr?.trim().split('\n').at(-1) || message}`;
  }
}

const CLIENTS = [
  { script: 'python_msgpack.py', packages: 'numpy, msgpack', checks: 3 },
  { script: 'python_msgpack_numpy.py', packages: 'numpy, msgpack, msgpack_numpy', checks: 1 },
  { script: 'python_numpy_json.py', packages: 'numpy', checks: 2 },
];

// All reasons are known before the first test is: the runner would end between two of them.
const noCurl = await missing('curl', ['--version']);
const noPackages = await Promise.all(
  CLIENTS.map(({ packages }) => missing(PYTHON, ['-c', `import ${packages}`])),
);

for (const [index, { script, checks }] of CLIENTS.entries()) {
  const skip = noPackages[index];
  test(script, { skip }, async (t) => {
    // -B: leaves no __pycache__ in the repository.
    const { stdout } = await run(PYTHON, ['-B', FOLDER + script, `${server.url}/gradient`], {
      timeout: TIMEOUT,
    });
    const lines = stdout.trim().split('\n');
    for (const line of lines) t.diagnostic(line);
    assert.equal(lines.length, checks);
  });
}

/** The matrices of tiny.json as tensors. */
function listsAsTensors(value: unknown): unknown {
  if (Array.isArray(value)) {
    const shape = [value.length, value[0].length];
    return encodeValues('float64', shape, Float64Array.from(value.flat()));
  }
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).map(([key, item]) => [key, listsAsTensors(item)]);
  return Object.fromEntries(entries);
}

test('curl_json.sh', { skip: noCurl }, async () => {
  const script = `${FOLDER}curl_json.sh`;
  const { stdout } = await run('sh', [script, `${server.url}/gradient`], { timeout: TIMEOUT });
  const answer = JSON.parse(stdout);
  const request = listsAsTensors(JSON.parse(readFileSync(`${FOLDER}tiny.json`, 'utf8')));
  const problem = plainProblem(request as GradientRequest);
  assert.ok(Math.abs(answer.loss / plainLoss(problem) - 1) < 1e-6);
  for (const [projection, pair] of finiteDifferences(problem)) {
    for (const tensor of ['lora_A', 'lora_B'] as const) {
      const measured = Float64Array.from(answer.gradients[projection][tensor].flat());
      assert.ok(relativeError(measured, pair[tensor]) < 1e-6, `${projection}.${tensor}`);
    }
  }
});

/** The only block of that language in the document with this text in it, aimed at this server. */
function example(document: string, language: string, text = '3000/gradient'): string {
  const whole = readFileSync(`${FOLDER}../../${document}`, 'utf8');
  const blocks = [...whole.matchAll(/^```(\w+)\n(.*?)^```$/gms)]
    .filter(([, name, code]) => name === language && code.includes(text))
    .map(([, , code]) => code);
  assert.equal(blocks.length, 1);
  return blocks[0].replaceAll('http://127.0.0.1:3000', server.url);
}

test('the Python example of docs/clients.md', { skip: noPackages[0] }, async () => {
  const { stdout } = await run(PYTHON, ['-c', example('docs/clients.md', 'python')], {
    timeout: TIMEOUT,
  });
  assert.match(stdout, /^\(8, 128\) \d+\.\d+\nbelow the threshold: (True|False) \d/);
});

test('the Python example of docs/clients.md, continued with references', {
  skip: noPackages[0],
}, async () => {
  const program =
    example('docs/clients.md', 'python') + example('docs/clients.md', 'python', '3000/tensors');
  const again =
    'print(urllib.request.urlopen(urllib.request.Request(request_url, ' +
    'data=msgpack.packb(body), headers={"Content-Type": "application/vnd.msgpack"})).status)';
  const { stdout } = await run(
    PYTHON,
    ['-c', `${program}\nrequest_url = "${server.url}/gradient"\n${again}`],
    { timeout: TIMEOUT },
  );
  const [, , sizes, status] = stdout.trim().split('\n');
  const [before, after] = [...sizes.matchAll(/\d+/g)].map(Number);
  assert.ok(after < before && before - after > 3 * 4 * 128 * 128 - 1000, sizes);
  assert.equal(status, '200');
});

test('the JavaScript example of docs/clients.md', async () => {
  const { stdout } = await run(
    process.execPath,
    ['--input-type=module', '-e', example('docs/clients.md', 'js', "from 'loragrad-client'")],
    { timeout: TIMEOUT, cwd: `${FOLDER}../..` },
  );
  assert.match(stdout, /^Float32Array\(2\) \[ -0\.0063\d+, 0\.0028\d+ \] \d/);
});

test('the curl example of docs/clients.md', { skip: noCurl }, async () => {
  const curl = example('docs/clients.md', 'sh');
  const { stdout } = await run('sh', ['-c', curl], { timeout: TIMEOUT });
  const { gradients } = JSON.parse(stdout);
  assert.equal(gradients.q_proj.lora_A[0].length, 2);
  assert.equal(gradients.q_proj.lora_B.length, 2);
});

/** Every number of the sample must be that of the answer, to the digits that it has. */
function assertShortened(sample: unknown, answer: unknown, path: string): void {
  if (typeof sample === 'number') {
    const tolerance = path.includes('/error/') || path.includes('timings') ? Infinity : 0.01;
    assert.ok(Math.abs(sample - (answer as number)) <= tolerance * Math.abs(sample), path);
  } else if (typeof sample === 'object' && sample !== null) {
    for (const [key, value] of Object.entries(sample)) {
      assertShortened(value, (answer as Record<string, unknown>)[key], `${path}/${key}`);
    }
  } else {
    assert.equal(typeof answer, typeof sample, path);
  }
}

test('the question of the README has the answer that stands there', { skip: noCurl }, async () => {
  const curl = example('README.md', 'sh');
  const { stdout } = await run('sh', ['-c', curl], { timeout: TIMEOUT });
  const sample = example('README.md', 'jsonc', '"gradients"').replace(/\/\/ .*$/gm, '');
  assertShortened(JSON.parse(sample), JSON.parse(stdout), '');
});
