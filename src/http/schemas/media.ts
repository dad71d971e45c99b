/** Bodies and answers by media type. */
import { BODY_TYPES } from '../media-types.js';

/** One schema for every media type of a body. */
export function requestBody(schemaId: string) {
  const schema = { $ref: `${schemaId}#` };
  return { content: Object.fromEntries(BODY_TYPES.map((type) => [type, { schema }])) };
}

/** One schema for every media type of an answer, or one of several. */
export function answerContent(schemaIds: string | readonly string[], description: string) {
  const schemas = [schemaIds].flat().map((id) => ({ $ref: `${id}#` }));
  const schema = schemas.length === 1 ? schemas[0] : { anyOf: schemas };
  return {
    description,
    content: Object.fromEntries(BODY_TYPES.map((type) => [type, { schema }])),
  };
}
