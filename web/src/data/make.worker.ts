/** Makes data beside the page, which stays alive meanwhile. */
import { makeRequest } from './make.js';
import type { Settings } from './settings.js';

self.onmessage = ({ data }: MessageEvent<Settings>) => self.postMessage(makeRequest(data));
