/** Bodies against their schemas: one clear sentence and a pointer for the first thing that is wrong. */
import { Ajv, type ErrorObject } from 'ajv';
import type { FastifyInstance, FastifySchemaCompiler } from 'fastify';
import fp from 'fastify-plugin';
import { isEncodedTensor } from '../../../workers/tensor/encoded.js';
import { AJV_OPTIONS } from '../../ajv.js';
import { Problem } from '../../errors.js';
import { ForwardRequest, GradientRequest } from '../../request/request.js';
import { GIVEN_TENSOR_SCHEMA_ID, TENSOR_SCHEMA_ID } from '../../wire/schema.js';
import { quote } from '../../wire/tree/quote.js';
import { TensorReference } from '../../wire/tree/reference.js';
import { appendPointer } from '../../wire/tree/wire-error.js';

/** The keys that the object at fault may have. */
function knownKeys(error: ErrorObject): string[] {
  const { properties } = error.parentSchema as { properties: Record<string, unknown> };
  return Object.keys(properties);
}

/** No known key is as long: what is longer is no misspelling. */
const LONGEST_KEY = 32;

/** The known key that one is most likely a misspelling of; null: none is near. */
function nearest(key: string, known: readonly string[]): string | null {
  const near = known
    .map((name) => ({
      name,
      edits: edits(key.slice(0, LONGEST_KEY).toLowerCase(), name.toLowerCase()),
    }))
    .sort((a, b) => a.edits - b.edits)[0];
  return near && near.edits <= Math.max(1, near.name.length / 4) ? near.name : null;
}

/** Letters to insert, delete or replace to make one text of the other (Levenshtein). */
function edits(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, j) => j);
  for (let i = 0; i < from.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < to.length; j++) {
      next.push(Math.min(row[j]! + Number(from[i] !== to[j]), row[j + 1]! + 1, next[j]! + 1));
    }
    row = next;
  }
  return row[to.length]!;
}

/** How a sentence names the types of JSON Schema. */
const TYPES: Readonly<Record<string, string>> = {
  object: 'a map',
  array: 'a list',
  integer: 'an integer',
  number: 'a number',
  boolean: 'true or false',
  string: 'a string',
};

function place(pointer: string): string {
  return pointer === '' ? 'the body' : pointer.slice(1).replaceAll('/', '.');
}

function problemOf(error: ErrorObject): Problem {
  const { keyword, params, instancePath, message, data } = error;
  switch (keyword) {
    case 'additionalProperties': {
      const known = knownKeys(error);
      // A list of numbers and a map with its dtype, shape and data are a tensor by now.
      if (isEncodedTensor(data)) {
        return new Problem(
          'invalid-value',
          `${place(instancePath)} must be a map with the keys ${known.join(', ')}; it is a tensor.`,
          { pointer: instancePath },
        );
      }
      const key: string = params.additionalProperty;
      const near = nearest(key, known);
      return new Problem(
        'unknown-key',
        `${quote(key)} is not a key of ${place(instancePath)}${near ? `; did you mean ${near}?` : '.'} Known keys: ${known.join(', ')}.`,
        { pointer: appendPointer(instancePath, key) },
      );
    }
    case 'required':
      return new Problem(
        'missing-key',
        `${params.missingProperty} is missing in ${place(instancePath)}.`,
        { pointer: instancePath },
      );
    case 'enum':
      return new Problem(
        'invalid-value',
        `${place(instancePath)} is ${quote(data)}; allowed: ${params.allowedValues.map(quote).join(', ')}.`,
        { pointer: instancePath },
      );
    case 'type':
      return new Problem(
        'invalid-value',
        `${place(instancePath)} must be ${TYPES[params.type] ?? params.type}; it is ${quote(data)}.`,
        { pointer: instancePath },
      );
    case 'tensor':
      return new Problem(
        'invalid-tensor',
        `${place(instancePath)} must be a tensor {dtype, shape, data} or a nested list of numbers; it is ${Array.isArray(data) && data.length === 0 ? 'an empty list' : quote(data)}.`,
        { pointer: instancePath },
      );
    default:
      return new Problem(
        'invalid-value',
        `${place(instancePath)} ${message}; it is ${quote(data)}.`,
        {
          pointer: instancePath,
          ...(typeof params.limit === 'number' && typeof data === 'number'
            ? { limit: params.limit, actual: data }
            : {}),
        },
      );
  }
}

/** Parameters of the URL are no part of the body, so there is no pointer. */
function problemOfUrl({ instancePath, message, data }: ErrorObject): Problem {
  return new Problem('bad-request', `${place(instancePath)} ${message}; it is ${quote(data)}.`);
}

/** A misspelt key is often why another is missing, so it is reported first. */
function mostTelling(errors: readonly ErrorObject[]): ErrorObject {
  return errors.find(({ keyword }) => keyword === 'additionalProperties') ?? errors[0];
}

async function validation(app: FastifyInstance): Promise<void> {
  // No defaults and no coercion: they would hide a misunderstanding.
  const ajv = new Ajv({ ...AJV_OPTIONS, verbose: true });
  ajv.addKeyword({
    keyword: 'tensor',
    errors: false,
    validate: (kind: 'tensor' | 'given', data: unknown) =>
      isEncodedTensor(data) || (kind === 'given' && data instanceof TensorReference),
  });
  // In the OpenAPI document these ids describe tensors on the wire. Here they describe decoded ones.
  ajv.addSchema({ $id: TENSOR_SCHEMA_ID, tensor: 'tensor' });
  ajv.addSchema({ $id: GIVEN_TENSOR_SCHEMA_ID, tensor: 'given' });
  ajv.addSchema(GradientRequest);
  ajv.addSchema(ForwardRequest);

  const compiler: FastifySchemaCompiler<object> = ({ schema, httpPart }) => {
    const validate = ajv.compile(schema);
    return (data) => {
      if (validate(data)) return { value: data };
      const error = mostTelling(validate.errors as ErrorObject[]);
      return { error: httpPart === 'body' ? problemOf(error) : problemOfUrl(error) };
    };
  };
  app.setValidatorCompiler(compiler);
  // Answers are encoded before Fastify sees them; their schemas serve the document only.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
}

export default fp(validation, { name: 'validation' });
