/** The request of a picture, as programs to copy; its body is a file that the page offers beside them. */
import { keptKey, SERVICE } from '../service.js';

export const LANGUAGES = ['curl', 'Python', 'TypeScript'] as const;
export type Language = (typeof LANGUAGES)[number];

/** metrics has no body. */
export type Route = 'gradient' | 'plan' | 'metrics';

/** The key does not stand in the program, but in the environment. */
const VARIABLE = 'LORAGRAD_API_KEY';

interface Target {
  readonly url: string;
  readonly route: Route;
  /** Whether the service wants a key. */
  readonly locked: boolean;
}

const curlKey = (locked: boolean) => (locked ? ` -H "authorization: Bearer $${VARIABLE}"` : '');
const pythonKey = (locked: boolean) =>
  locked ? `"Authorization": "Bearer " + os.environ["${VARIABLE}"]` : '';
const pythonImports = (locked: boolean) => `${locked ? 'import os\n' : ''}import urllib.request`;
const headers = (locked: boolean) =>
  locked ? `, { headers: { authorization: \`Bearer \${process.env.${VARIABLE}}\` } }` : '';

const WITHOUT_BODY: Record<Language, (target: Target) => string> = {
  curl: ({ url, locked }) => `curl -s ${url}${curlKey(locked)}`,
  Python: ({ url, locked }) => `${pythonImports(locked)}

request = urllib.request.Request("${url}", headers={${pythonKey(locked)}})
print(urllib.request.urlopen(request).read().decode())`,
  TypeScript: ({ url, locked }) =>
    `console.log(await (await fetch('${url}'${headers(locked)})).text());`,
};

const WITH_BODY: Record<Language, (target: Target) => string> = {
  curl: ({ url, locked }) => `curl -s ${url}${curlKey(locked)} \\
  -H 'content-type: application/vnd.msgpack' -H 'accept: application/json' \\
  --data-binary @request.msgpack`,
  Python: ({ url, locked }) => `# pip install msgpack
${pythonImports(locked)}

import msgpack

request = urllib.request.Request(
    "${url}",
    data=open("request.msgpack", "rb").read(),
    headers={"Content-Type": "application/vnd.msgpack"${locked ? `, ${pythonKey(true)}` : ''}},
)
answer = msgpack.unpackb(urllib.request.urlopen(request).read())
print(answer["method"], answer["reason"])`,
  TypeScript: ({ route, locked }) => `import { readFile } from 'node:fs/promises';
import { Client, decodeRequest } from 'loragrad-client';

const client = new Client('${SERVICE.href}'${headers(locked)});
const request = decodeRequest(await readFile('request.msgpack'));
const answer = await client.${route}(request);
console.log(answer.method, answer.reason);`,
};

export function codeFor(route: Route, language: Language): string {
  const target = { url: new URL(route, SERVICE).href, route, locked: keptKey() !== '' };
  return (route === 'metrics' ? WITHOUT_BODY : WITH_BODY)[language](target);
}
