/** The service that this page came from. */
import { Client } from 'loragrad-client';

export const SERVICE = new URL('.', document.baseURI);
export const client = new Client(SERVICE, { retries: 2 });
