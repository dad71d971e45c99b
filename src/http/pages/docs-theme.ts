/** What the page of the documentation has beside Swagger UI: its name, an icon, and help for screen readers. */
import { readFileSync } from 'node:fs';
import type { FastifySwaggerUiOptions } from '@fastify/swagger-ui';
import { packageFile } from '../../../workers/package-file.js';
import { ICON } from './icon.js';

const read = (name: string) => readFileSync(packageFile(`openapi/page/${name}`), 'utf8');

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
