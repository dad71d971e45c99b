/** What the page of the documentation has beside Swagger UI: its name, an icon, and help for screen readers. */
import { readFileSync } from 'node:fs';
import type { FastifySwaggerUiOptions } from '@fastify/swagger-ui';
import { ICON } from './icon.js';

/** From dist/src/http. */
const read = (name: string) =>
  readFileSync(new URL(`../../../../openapi/page/${name}`, import.meta.url), 'utf8');

export function docsTheme(): NonNullable<FastifySwaggerUiOptions['theme']> {
  return {
    title: 'loragrad API',
    css: [{ filename: 'style.css', content: read('style.css') }],
    js: [{ filename: 'labels.js', content: read('labels.js') }],
    favicon: [
      {
        filename: 'favicon.svg',
        rel: 'icon',
        type: 'image/svg+xml',
        sizes: 'any',
        content: ICON,
      },
    ],
  };
}
