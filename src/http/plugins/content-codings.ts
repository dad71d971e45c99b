/** Content codings: compressed bodies are expanded as they arrive, answers are compressed when asked for. */
import type { Duplex, Readable } from 'node:stream';
import { Readable as ReadableStream } from 'node:stream';
import { promisify } from 'node:util';
import zlib from 'node:zlib';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.js';
import { quote } from '../../wire/tree/quote.js';
import { Pieces } from '../admission/pieces.js';
import { chooseCoding, preferences } from '../negotiation.js';

interface Coding {
  expander(): Duplex;
  compressor(): Duplex;
  compress(data: Buffer): Promise<Buffer>;
}

const CHUNK = 2 ** 17;
/** Numbers of tensors hardly shrink, so that time is what counts. */
const GZIP = { level: 1, chunkSize: CHUNK };

const CODINGS = new Map<string, Coding>();

/** Zstandard came with Node 22.15; the types are those of Node 20. */
interface WithZstd {
  readonly createZstdDecompress?: (options: object) => Duplex;
  readonly createZstdCompress: (options: object) => Duplex;
  readonly zstdCompress: (
    data: Buffer,
    done: (error: Error | null, result: Buffer) => void,
  ) => void;
  readonly constants: { readonly ZSTD_d_windowLogMax: number };
}
const { createZstdDecompress, createZstdCompress, zstdCompress, constants } =
  zlib as unknown as WithZstd;
if (createZstdDecompress) {
  // 8 MiB, which RFC 8878 asks every decoder to have; more is memory at the client's will.
  const params = { [constants.ZSTD_d_windowLogMax]: 23 };
  CODINGS.set('zstd', {
    expander: () => createZstdDecompress({ chunkSize: CHUNK, params }),
    compressor: () => createZstdCompress({ chunkSize: CHUNK }),
    compress: promisify(zstdCompress),
  });
}
CODINGS.set('gzip', {
  expander: () => zlib.createGunzip({ chunkSize: CHUNK }),
  compressor: () => zlib.createGzip(GZIP),
  compress: promisify((data: Buffer, done: (error: Error | null, result: Buffer) => void) =>
    zlib.gzip(data, GZIP, done),
  ),
});

/** The codings that this Node has, the favourite first. */
const CODING_NAMES: readonly string[] = [...CODINGS.keys()];

/** Shorter answers are not worth it. */
const LEAST_BYTES = 1024;
/** Longer answers of tensors are compressed only for clients that compress theirs too. */
const QUICK_BYTES = 2 ** 20;

declare module 'fastify' {
  interface FastifyRequest {
    /** The coding of the body; null: none. */
    contentCoding: string | null;
  }
}

/** @throws {Problem} when there is a coding that is not known, or more than one. */
function codingOf(request: FastifyRequest): string | null {
  const header = request.headers['content-encoding'];
  const names = preferences(header ?? '')
    .map(({ name }) => (name === 'x-gzip' ? 'gzip' : name))
    .filter((name) => name !== 'identity');
  if (names.length === 0) return null;
  if (names.length === 1 && CODINGS.has(names[0])) return names[0];
  throw new Problem(
    'unsupported-media-type',
    `Content-Encoding: ${quote(header)} is not supported; a body may be in one of ${CODING_NAMES.join(', ')}, or as it is.`,
    { headers: { 'accept-encoding': CODING_NAMES.join(', ') } },
  );
}

async function* expand(raw: Readable, expander: Duplex, coding: string): AsyncGenerator<Buffer> {
  // `pipe` does not forward errors. A body that breaks off is discarded.
  raw.once('error', (error) => expander.destroy(error));
  const pieces = new Pieces();
  const count = (piece: Buffer) => {
    try {
      pieces.add(piece.length);
    } catch (error) {
      expander.destroy(error as Problem);
    }
  };
  try {
    yield* raw.on('data', count).pipe(expander);
  } catch (error) {
    if (raw.errored) throw raw.errored;
    if (error instanceof Problem) throw error;
    throw new Problem(
      'malformed-body',
      `The body is not valid ${coding}: ${(error as Error).message}.`,
      {
        cause: error,
      },
    );
  } finally {
    // The rest is received and thrown away, as of any body that is refused.
    raw.off('data', count).unpipe(expander).resume();
    expander.destroy();
  }
}

/** Its reader counts the bytes and ends the stream when there are too many. */
async function expandBody(
  request: FastifyRequest,
  _reply: FastifyReply,
  payload: Readable,
): Promise<Readable> {
  const coding = request.contentCoding;
  if (coding === null) return payload;
  // It counts the compressed bytes.
  delete request.headers['content-length'];
  const expander = (CODINGS.get(coding) as Coding).expander();
  return ReadableStream.from(expand(payload, expander, coding), { objectMode: false });
}

function isText(reply: FastifyReply): boolean {
  return /^text\/|json|javascript|xml/.test(String(reply.getHeader('content-type')));
}

async function compressAnswer(
  request: FastifyRequest,
  reply: FastifyReply,
  payload: unknown,
): Promise<unknown> {
  const isStream = payload instanceof ReadableStream;
  if (!isStream && typeof payload !== 'string' && !Buffer.isBuffer(payload)) return payload;
  if (reply.hasHeader('content-encoding') || reply.hasHeader('content-range')) return payload;
  const bytes = isStream ? Number(reply.getHeader('content-length')) : Buffer.byteLength(payload);
  if (bytes < LEAST_BYTES) return payload;
  reply.header('vary', [reply.getHeader('vary'), 'accept-encoding'].filter(Boolean).join(', '));
  if (!isText(reply) && bytes > QUICK_BYTES && request.contentCoding === null) return payload;
  const chosen = chooseCoding(request.headers['accept-encoding'], [...CODING_NAMES, 'identity']);
  const coding = CODINGS.get(chosen ?? 'identity');
  if (!coding) return payload;
  reply.header('content-encoding', chosen).removeHeader('content-length');
  return isStream ? payload.pipe(coding.compressor()) : coding.compress(Buffer.from(payload));
}

async function contentCodings(app: FastifyInstance): Promise<void> {
  app.decorateRequest('contentCoding', null);
  app.addHook('onRequest', async (request) => {
    request.contentCoding = codingOf(request);
  });
  app.addHook('preParsing', expandBody);
  app.addHook('onSend', compressAnswer);
}

export default fp(contentCodings, { name: 'content-codings' });
