/** Bodies and answers by media type. */
import { BODY_TYPES } from '../media-types.js';

/** One schema for every media type of a body. */
export function requestBody(schemaId: string) {
  const schema = { $ref: `${schemaId}#` };
  return { content: Object.fromEntries(BODY_TYPES.map((type) => [type, { schema }])) };
}

/** One schema for every media type of an answer. */
export function answerContent(schemaId: string, description: string) {
  const schema = { $ref: `${schemaId}#` };
  return {
    description,
    content: Object.fromEntries(BODY_TYPES.map((type) => [type, { schema }])),
  };
}
