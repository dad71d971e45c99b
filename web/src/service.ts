/** The service that this page came from, and the key that it may ask for. */
import { Client } from 'loragrad-client';

export const SERVICE = new URL('.', document.baseURI);

/** Kept for this tab, until it is closed. */
const KEPT = 'loragrad-api-key';

export const keptKey = (): string => sessionStorage.getItem(KEPT) ?? '';
export const keepKey = (key: string): void => sessionStorage.setItem(KEPT, key);

/** Has the event 'refused' whenever the service asks for a key, or for another one. */
export const access = new EventTarget();

/** As `fetch`, with the key. */
export const ask: typeof globalThis.fetch = async (input, init) => {
  const headers = new Headers(init?.headers);
  if (keptKey() !== '') headers.set('authorization', `Bearer ${keptKey()}`);
  const response = await fetch(input, { ...init, headers });
  if (response.status === 401) access.dispatchEvent(new Event('refused'));
  return response;
};

export const client = new Client(SERVICE, { retries: 2, fetch: ask });
