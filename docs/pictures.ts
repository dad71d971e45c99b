/** Pictures of the documentation that are drawn by code: npm run docs writes them, a test compares. */
import { architecturePicture } from './architecture-picture.js';

export const PICTURES = [
  { file: 'docs/pictures/architecture.svg', make: architecturePicture },
] as const;
