/**
 * The document as Swagger UI gets it: OpenAPI 3.0 with its examples as text. Its resolver for 3.1 takes seconds
 * whenever an operation is unfolded (swagger-api/swagger-ui#10748), and goes through every number of an example.
 */
import { JSON_TYPE } from '../media-types.js';
import type { Document } from './document.js';
import { REQUEST_EXAMPLES } from './example.js';

type Json = Record<string, unknown>;

const isMap = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** What 3.0 has another word for. */
function translate(schema: Json): Json {
  const { anyOf, exclusiveMinimum, examples, propertyNames: _, ...rest } = schema;
  const translated: Json = { ...rest };
  if (Array.isArray(examples)) translated.example = examples[0];
  else if (examples !== undefined) translated.examples = examples;
  if (exclusiveMinimum !== undefined) {
    Object.assign(translated, { minimum: exclusiveMinimum, exclusiveMinimum: true });
  }
  if (Array.isArray(anyOf)) {
    const others = anyOf.filter((one) => !(isMap(one) && one.type === 'null'));
    translated[others.length > 1 ? 'anyOf' : 'allOf'] = others;
    if (others.length < anyOf.length) translated.nullable = true;
  }
  return translated;
}

function translated(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(translated);
  if (!isMap(value)) return value;
  const entries = Object.entries(translate(value));
  return Object.fromEntries(entries.map(([key, one]) => [key, translated(one)]));
}

function inText<Example extends { readonly value: unknown }>(
  examples: Readonly<Record<string, Example>>,
): Record<string, Example> {
  return Object.fromEntries(
    Object.entries(examples).map(([name, example]) => [
      name,
      { ...example, value: JSON.stringify(example.value, null, 2) },
    ]),
  );
}

/**
 * Tools take a $ref for one of the document, wherever it stands, so that an example with one can only go as text; that
 * is no value of its schema, and so the page alone has it.
 */
export function swaggerDocument(document: Document): Document {
  const copy = structuredClone(document);
  for (const path of Object.values(copy.paths ?? {})) {
    for (const { operationId = '', requestBody, responses = {} } of Object.values(path)) {
      for (const body of [requestBody, ...Object.values(responses)]) {
        for (const media of Object.values(body?.content ?? {})) {
          if (media.examples) media.examples = inText(media.examples);
        }
      }
      const json = requestBody?.content[JSON_TYPE];
      if (json?.examples) json.examples = inText(REQUEST_EXAMPLES[operationId] ?? {});
    }
  }
  const { info, ...rest } = translated(copy) as Json & { info: { license: { name: string } } };
  return {
    ...rest,
    openapi: '3.0.3',
    info: { ...info, license: { name: info.license.name } },
  } as Document;
}
