import { type TensorInput, toWire, type WireTensor } from './tensors.js';

/** A tensor that does not change any more: it goes to the service once, and is referred to afterwards. */
export class KeptTensor {
  readonly wire: WireTensor;
  #name: Promise<string | null> | undefined;

  constructor(tensor: TensorInput) {
    this.wire = toWire(tensor);
  }

  /**
   * 'sha256:<hex>', from the first use on; its data must not be written to any more. null where the platform
   * has no SHA-256, as on pages that came over plain HTTP from another machine.
   */
  name(): Promise<string | null> {
    this.#name ??= digest(this.wire);
    return this.#name;
  }
}

/** SHA-256 of `{dtype}\n{shape joined by commas}\n` and the data. */
async function digest({ dtype, shape, data }: WireTensor): Promise<string | null> {
  if (!globalThis.crypto?.subtle) return null;
  const head = new TextEncoder().encode(`${dtype}\n${shape.join(',')}\n`);
  const whole = new Uint8Array(head.length + data.length);
  whole.set(head);
  whole.set(data, head.length);
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', whole));
  return `sha256:${Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}
