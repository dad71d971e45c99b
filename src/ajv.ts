/** How schemas are compiled: quickly. The service starts with them, and a value is checked once. */
import type { Options } from 'ajv';

export const AJV_OPTIONS = {
  allErrors: true,
  // They are schemas of this package, and tests see that its document is a valid one.
  strict: false,
  meta: false,
  validateSchema: false,
  // Each is compiled once, wherever it is referred to.
  inlineRefs: false,
  code: { optimize: false },
} as const satisfies Options;
