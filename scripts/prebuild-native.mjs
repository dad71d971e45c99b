/**
 * The native kernels for every platform, for the npm package: native/prebuilt/<platform>.node. Run by whoever
 * releases, before npm pack; docs/development.md says how. Byte for byte the same on every machine, given the same
 * compiler: ZIG is the command of `zig cc`, "python3 -m ziglang cc" by default.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { compileAddon, writeHeader } from './build-native.mjs';
import { ROOT } from './make.mjs';

const TARGETS = {
  'linux-x64': 'x86_64-linux-gnu.2.17',
  'linux-arm64': 'aarch64-linux-gnu.2.17',
  'linuxmusl-x64': 'x86_64-linux-musl',
  'linuxmusl-arm64': 'aarch64-linux-musl',
  'darwin-x64': 'x86_64-macos',
  'darwin-arm64': 'aarch64-macos',
};

const compiler = process.env.ZIG ?? 'python3 -m ziglang cc';
const folder = join(ROOT, 'native/prebuilt');
mkdirSync(folder, { recursive: true });
await writeHeader();
for (const [name, target] of Object.entries(TARGETS)) {
  const [system, arch] = name.split('-');
  const output = join(folder, `${name}.node`);
  // Without debug information, in which paths of this machine would stand.
  const flags = ['-target', target, '-g0'];
  compileAddon({ compiler, arch, platform: system, output, flags, link: ['-s'] });
  const digest = createHash('sha256').update(readFileSync(output)).digest('hex');
  console.log(`${digest}  ${name}.node`);
}
