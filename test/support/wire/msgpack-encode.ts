/**
 * A MessagePack encoder for the bodies of the tests, apart from the one in the service: it can write what
 * Python writes and JavaScript libraries do not, such as maps with bytes for keys.
 */
function header(value: number, fix: { below: number; token: number } | null, tokens: number[]) {
  if (fix && value < fix.below) return Buffer.from([fix.token | value]);
  // tokens are those of the 8-, 16- and 32-bit lengths; 0 stands for a size that does not exist.
  const [byte, short, long] = tokens;
  if (byte && value < 2 ** 8) return Buffer.from([byte, value]);
  if (value < 2 ** 16) return Buffer.from([short, value >> 8, value & 255]);
  const head = Buffer.alloc(5);
  head[0] = long;
  head.writeUInt32BE(value, 1);
  return head;
}

function encodeNumber(value: number): Buffer {
  if (Number.isInteger(value) && value >= 0 && value < 2 ** 32 && !Object.is(value, -0)) {
    return header(value, { below: 128, token: 0 }, [0xcc, 0xcd, 0xce]);
  }
  const float64 = Buffer.alloc(9);
  float64[0] = 0xcb;
  float64.writeDoubleBE(value, 1);
  return float64;
}

function parts(value: unknown, out: Buffer[]): void {
  if (value === null) out.push(Buffer.from([0xc0]));
  else if (typeof value === 'boolean') out.push(Buffer.from([value ? 0xc3 : 0xc2]));
  else if (typeof value === 'number') out.push(encodeNumber(value));
  else if (typeof value === 'string') {
    const text = Buffer.from(value);
    out.push(header(text.length, { below: 32, token: 0xa0 }, [0xd9, 0xda, 0xdb]), text);
  } else if (value instanceof Uint8Array) {
    out.push(header(value.length, null, [0xc4, 0xc5, 0xc6]));
    out.push(Buffer.from(value.buffer, value.byteOffset, value.byteLength));
  } else if (Array.isArray(value)) {
    out.push(header(value.length, { below: 16, token: 0x90 }, [0, 0xdc, 0xdd]));
    for (const element of value) parts(element, out);
  } else {
    const entries = value instanceof Map ? [...value] : Object.entries(value as object);
    out.push(header(entries.length, { below: 16, token: 0x80 }, [0, 0xde, 0xdf]));
    for (const [key, item] of entries) {
      parts(key, out);
      parts(item, out);
    }
  }
}

export function encodeMsgpack(value: unknown): Buffer {
  const out: Buffer[] = [];
  parts(value, out);
  return Buffer.concat(out);
}
