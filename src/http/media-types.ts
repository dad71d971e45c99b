/** The media types of requests and answers. */
export const MSGPACK_TYPES = [
  'application/vnd.msgpack',
  'application/msgpack',
  'application/x-msgpack',
] as const;
export const JSON_TYPE = 'application/json';
/** JSON first: the documentation's "try it out" offers the first one. */
export const BODY_TYPES = [JSON_TYPE, ...MSGPACK_TYPES] as const;
