/** The media types of requests and answers. */
export const MSGPACK_TYPES = [
  'application/vnd.msgpack',
  'application/msgpack',
  'application/x-msgpack',
] as const;
export const JSON_TYPE = 'application/json';
export const BODY_TYPES = [...MSGPACK_TYPES, JSON_TYPE] as const;
