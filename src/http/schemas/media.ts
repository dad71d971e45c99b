/** Bodies and answers by media type. */
import { BODY_TYPES, JSON_TYPE } from '../media-types.js';

/** One schema for every media type of a body; JSON comes with an example that can be executed. */
export function requestBody(schemaId: string, example: unknown) {
  const schema = { $ref: `${schemaId}#` };
  // An example beside $ref would be lost on the way into the document.
  const withExample = { allOf: [schema], examples: [example] };
  return {
    content: Object.fromEntries(
      BODY_TYPES.map((type) => [type, { schema: type === JSON_TYPE ? withExample : schema }]),
    ),
  };
}

/** One schema for every media type of an answer. */
export function answerContent(schemaId: string, description: string) {
  const schema = { $ref: `${schemaId}#` };
  return {
    description,
    content: Object.fromEntries(BODY_TYPES.map((type) => [type, { schema }])),
  };
}
