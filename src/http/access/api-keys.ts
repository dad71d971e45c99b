/** API keys: several, each with a name; from a setting, or from a file that may change at any time. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';

interface ApiKey {
  readonly name: string;
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
      const [, name, key] = /^([\w.-]+):(\S{16,})$/.exec(entry) ?? [];
      if (name && key) return { name, digest: digestOf(key) };
      throw new Error(
        `Entry ${k + 1} of ${source} is no name:key pair; a key has at least 16 characters.`,
      );
    });
}

export class ApiKeys {
  #keys: readonly ApiKey[];
  #seen = 0;
  #looked = performance.now();

  /**
   * @param text 'name:key,name:key'
   * @param file with one pair a line; '': none.
   */
  constructor(
    text: string,
    private readonly file: string,
  ) {
    this.#keys = parse(text, 'LORAGRAD_API_KEYS');
    if (file !== '') this.#read();
  }

  /** Whether anybody may come in. */
  get open(): boolean {
    return this.#keys.length === 0 && this.file === '';
  }

  /** The name of a key, or null. Takes as long for a wrong key as for a right one. */
  nameOf(key: string): string | null {
    this.#look();
    const digest = digestOf(key);
    let found: string | null = null;
    for (const { name, digest: other } of this.#keys) {
      if (timingSafeEqual(digest, other)) found = name;
    }
    return found;
  }

  #look(): void {
    if (this.file === '' || performance.now() - this.#looked < LOOK_MS) return;
    this.#looked = performance.now();
    try {
      if (statSync(this.file).mtimeMs !== this.#seen) this.#read();
    } catch {
      // A file that is just being replaced, or is not valid: the keys of before hold.
    }
  }

  #read(): void {
    const { mtimeMs } = statSync(this.file);
    this.#keys = parse(readFileSync(this.file, 'utf8'), 'LORAGRAD_API_KEYS_FILE');
    this.#seen = mtimeMs;
  }
}
