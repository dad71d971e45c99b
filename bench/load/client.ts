/** Keep-alive connections to a service, as many as there are requests at a time; what becomes of each request. */
import { connect, type Socket } from 'node:net';

export interface Answer {
  /**
   * The status code; 'refused': no connection came about, 'cut': it closed without an answer, 'truncated': in the
   * middle of it, 'hangs': nothing came for much longer than any deadline.
   */
  readonly status: string;
  readonly retryAfter: number;
  readonly body: Buffer;
  /** performance.now() when the request was written. */
  readonly sent: number;
  /** What is known of a request that got no whole answer. */
  readonly loss?: string;
}

/** Longer than any deadline that the trials set. */
const HANGS_MS = 700_000;
/** So long before the service closes an idle connection, as it says, a client takes another one. */
const MARGIN_MS = 1000;

interface Connection {
  readonly socket: Socket;
  /** Of the request that is under way. */
  onBytes(bytes: Buffer): void;
  onClose(): void;
  /** What went wrong with it. */
  error: string;
  /** Requests that it has carried. */
  served: number;
  /** performance.now() of its last answer, and until when it may be used after that. */
  last: number;
  usableUntil: number;
}

/**
 * One client of the service: all its connections have one address. It shares the processors with what it measures, so it does little
 * for an answer: connections read into one buffer.
 */
export class Client {
  #free: Connection[] = [];
  readonly #buffer = Buffer.alloc(65_536);

  constructor(
    private readonly port: number,
    /** Another one than the system takes by itself: it looks for a free port among all that are in use, which takes long. */
    private readonly localAddress?: string,
  ) {}

  async send(request: Buffer): Promise<Answer> {
    const connection = this.#take() ?? (await this.#open());
    if (typeof connection === 'string') {
      return { ...NOTHING, status: 'refused', sent: performance.now(), loss: connection };
    }
    const { close, error, ...answer } = await exchange(connection, request);
    const { served, last } = connection;
    connection.last = performance.now();
    connection.served++;
    if (close) connection.socket.destroy();
    else this.#free.push(connection);
    if (!error) return answer;
    const [took, idle] = [connection.last - answer.sent, answer.sent - last].map(Math.round);
    const loss = `${answer.status} after ${took} ms (${error}); ${served} answers before it, the last ${idle} ms earlier`;
    return { ...answer, loss };
  }

  close(): void {
    for (const { socket } of this.#free) socket.destroy();
  }

  /** The one that was used last. */
  #take(): Connection | undefined {
    const now = performance.now();
    for (let one = this.#free.pop(); one; one = this.#free.pop()) {
      if (now < one.usableUntil) return one;
      one.socket.destroy();
    }
    return undefined;
  }

  #open(): Promise<Connection | string> {
    const { port, localAddress } = this;
    return new Promise((resolve) => {
      const callback = (length: number, buffer: Uint8Array) => {
        connection.onBytes((buffer as Buffer).subarray(0, length));
        return true;
      };
      const onread = { buffer: this.#buffer, callback };
      const socket = connect({ port, host: '127.0.0.1', localAddress, noDelay: true, onread });
      const connection: Connection = {
        socket,
        onBytes: () => {},
        onClose: () => {},
        error: 'closed',
        served: 0,
        last: 0,
        usableUntil: Number.POSITIVE_INFINITY,
      };
      socket.once('connect', () => {
        connection.last = performance.now();
        resolve(connection);
      });
      socket.on('error', ({ message }) => {
        connection.error = message;
        resolve(message);
      });
      socket.on('close', () => {
        this.#free = this.#free.filter((one) => one !== connection);
        connection.onClose();
      });
    });
  }
}

const NOTHING = { retryAfter: 0, body: Buffer.alloc(0) } as const;

type Exchanged = Answer & { readonly close: boolean; readonly error: string | null };

function exchange(connection: Connection, request: Buffer): Promise<Exchanged> {
  const sent = performance.now();
  return new Promise((resolve) => {
    const settle = (answer: Omit<Exchanged, 'sent'>) => {
      clearTimeout(timer);
      resolve({ ...answer, sent });
    };
    const lost = (status: string, error: string) =>
      settle({ ...NOTHING, status, close: true, error });
    const timer = setTimeout(() => lost('hangs', 'no answer'), HANGS_MS);
    const chunks: Buffer[] = [];
    let length = 0;
    /** Bytes of the whole answer; null: its head is not here yet. */
    let wanted: number | null = null;
    let head = '';
    connection.onBytes = (bytes) => {
      chunks.push(Buffer.from(bytes));
      length += bytes.length;
      if (wanted === null) {
        const all = Buffer.concat(chunks);
        const end = all.indexOf('\r\n\r\n');
        if (end < 0) return;
        head = all.toString('latin1', 0, end);
        wanted = end + 4 + numberIn(head, /content-length: (\d+)/i);
      }
      if (length < wanted) return;
      const seconds = numberIn(head, /keep-alive: timeout=(\d+)/i);
      if (seconds > 0) connection.usableUntil = performance.now() + 1000 * seconds - MARGIN_MS;
      settle({
        status: head.slice(9, 12),
        retryAfter: numberIn(head, /retry-after: (\d+)/i),
        body: Buffer.concat(chunks).subarray(head.length + 4, wanted),
        close: /connection: close/i.test(head),
        error: null,
      });
    };
    // Half an answer is worse than none.
    connection.onClose = () => lost(length > 0 ? 'truncated' : 'cut', connection.error);
    connection.socket.write(request);
  });
}

const numberIn = (head: string, pattern: RegExp) => Number(pattern.exec(head)?.[1] ?? 0);
