/** One map of a body, whichever decoder it came from. */
export interface WireMap {
  /** In the order of the document. Keys that are bytes are decoded as text. */
  readonly entries: ReadonlyMap<string, unknown>;
  /** The first key that was bytes and not a string, if there was one. */
  readonly bytesKey: string | null;
  /** In JSON the data of a tensor is base64 text, in MessagePack it is bytes. */
  readonly format: 'json' | 'msgpack';
}

/** A Map as the MessagePack decoder makes it or an object as JSON.parse makes it; null for others. */
export function readWireMap(value: unknown): WireMap | null {
  if (value instanceof Map) {
    let bytesKey: string | null = null;
    const entries = new Map<string, unknown>();
    for (const [key, item] of value) {
      const text = key instanceof Uint8Array ? Buffer.from(key).toString('utf8') : key;
      if (typeof text !== 'string') return null;
      if (text !== key) bytesKey ??= text;
      entries.set(text, item);
    }
    return { entries, bytesKey, format: 'msgpack' };
  }
  if (typeof value !== 'object' || Object.getPrototypeOf(value) !== Object.prototype) return null;
  return { entries: new Map(Object.entries(value as object)), bytesKey: null, format: 'json' };
}
