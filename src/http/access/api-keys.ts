/** API keys: several, each with a name; from a setting, or from a file that may change at any time. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { stampOf } from './file-stamp.js';
import { QUOTA_NAMES, type Quota } from './quotas.js';

interface KeyHolder {
  readonly name: string;
  readonly quota: Quota;
}

interface ApiKey extends KeyHolder {
  readonly digest: Buffer;
}

/** How often the file is looked at. */
const LOOK_MS = 2000;

const digestOf = (key: string) => createHash('sha256').update(key).digest();

/** @throws {Error} that names the entry by its place: a key must not stand in a log. */
function parse(text: string, source: string): ApiKey[] {
  return text
    .split(/[,\n]/)
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '' && !entry.startsWith('#'))
    .map((entry, k) => {
      const [pair = '', ...limits] = entry.split(/\s+/);
      const [, name, key] = /^([\w.-]+):(\S{16,})$/.exec(pair) ?? [];
      const quota = parseQuota(limits);
      if (name && key && quota) return { name, digest: digestOf(key), quota };
      throw new Error(
        `Entry ${k + 1} of ${source} is no name:key pair, perhaps with quotas such as requests=600; a key has at least 16 characters.`,
      );
    });
}

/** @returns null when it is none. */
function parseQuota(limits: readonly string[]): Quota | null {
  const quota: Record<string, number> = {};
  for (const limit of limits) {
    const [, name = '', value] = /^([a-z]+)=([1-9]\d{0,14})$/.exec(limit) ?? [];
    if (!(QUOTA_NAMES as readonly string[]).includes(name)) return null;
    quota[name] = Number(value);
  }
  return quota;
}

export class ApiKeys {
  #keys: readonly ApiKey[];
  #seen = '';
  #looked = performance.now();
  /** Why the file could not be used when it was last read. */
  #trouble = '';

  /**
   * @param text 'name:key,name:key requests=600 bytes=1000000000 stored=500000000'
   * @param file with one pair a line; '': none.
   * @param failed told once why a file that has changed is of no use; the keys of before hold.
   */
  constructor(
    text: string,
    private readonly file: string,
    private readonly failed: (error: Error) => void = () => {},
  ) {
    this.#keys = parse(text, 'LORAGRAD_API_KEYS');
    if (file !== '') this.#read();
  }

  /** Whether anybody may come in. */
  get open(): boolean {
    return this.#keys.length === 0 && this.file === '';
  }

  /** Whose key it is, or null. Takes as long for a wrong key as for a right one. */
  holderOf(key: string): KeyHolder | null {
    this.#look();
    const digest = digestOf(key);
    let found: KeyHolder | null = null;
    for (const holder of this.#keys) {
      if (timingSafeEqual(digest, holder.digest)) found = holder;
    }
    return found;
  }

  #look(): void {
    if (this.file === '' || performance.now() - this.#looked < LOOK_MS) return;
    this.#looked = performance.now();
    try {
      if (stampOf(this.file) !== this.#seen) this.#read();
      this.#trouble = '';
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#trouble) this.failed(error as Error);
      this.#trouble = message;
    }
  }

  #read(): void {
    const stamp = stampOf(this.file);
    this.#keys = parse(readFileSync(this.file, 'utf8'), 'LORAGRAD_API_KEYS_FILE');
    this.#seen = stamp;
  }
}
