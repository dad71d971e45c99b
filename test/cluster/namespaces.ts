/** Network namespaces for the processes of a test, each joined to this one by a cable, where that is permitted. */
import { execFileSync, spawnSync } from 'node:child_process';

const ip = (...args: string[]) => execFileSync('ip', args, { stdio: 'pipe' });

/** Whether namespaces can be made here: it takes Linux and its administrator. */
export function canMakeNamespaces(): boolean {
  const name = `loragrad-${process.pid}`;
  if (spawnSync('ip', ['netns', 'add', name]).status !== 0) return false;
  const works = spawnSync('ip', [
    'link',
    'add',
    'lgtest',
    'type',
    'veth',
    'peer',
    'name',
    'lgpeer',
  ]);
  spawnSync('ip', ['link', 'del', 'lgtest']);
  spawnSync('ip', ['netns', 'del', name]);
  return works.status === 0;
}

export interface Namespace {
  /** In front of a command that is to run there. */
  readonly inside: readonly string[];
  /** Its own address, and that of this end of the cable. */
  readonly address: string;
  readonly gateway: string;
  remove(): void;
}

/** @param k of this test, in [0, 60). */
export function makeNamespace(k: number): Namespace {
  const [name, here, there] = [`loragrad-${process.pid}-${k}`, `lgh${k}`, `lgn${k}`];
  const network = `198.18.77.${4 * k}`;
  const [gateway, address] = [1, 2].map((host) => network.replace(/\d+$/, `${4 * k + host}`));
  const within = (...args: string[]) => ip('-n', name, ...args);
  ip('netns', 'add', name);
  ip('link', 'add', here, 'type', 'veth', 'peer', 'name', there, 'netns', name);
  ip('addr', 'add', `${gateway}/30`, 'dev', here);
  ip('link', 'set', here, 'up');
  within('addr', 'add', `${address}/30`, 'dev', there);
  within('link', 'set', there, 'up');
  within('link', 'set', 'lo', 'up');
  within('route', 'add', 'default', 'via', gateway!);
  const remove = () => {
    spawnSync('ip', ['link', 'del', here]);
    spawnSync('ip', ['netns', 'del', name]);
  };
  return { inside: ['ip', 'netns', 'exec', name], address: address!, gateway: gateway!, remove };
}
