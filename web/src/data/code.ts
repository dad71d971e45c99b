/** The request of a picture, as programs to copy; its body is a file that the page offers beside them. */
import { SERVICE } from '../service.js';

export const LANGUAGES = ['curl', 'Python', 'TypeScript'] as const;
export type Language = (typeof LANGUAGES)[number];

/** metrics has no body. */
export type Route = 'gradient' | 'plan' | 'metrics';

const WITHOUT_BODY: Record<Language, (url: string) => string> = {
  curl: (url) => `curl -s ${url}`,
  Python: (url) => `import urllib.request

print(urllib.request.urlopen("${url}").read().decode())`,
  TypeScript: (url) => `console.log(await (await fetch('${url}')).text());`,
};

const WITH_BODY: Record<Language, (url: string, route: Route) => string> = {
  curl: (url) => `curl -s ${url} \\
  -H 'content-type: application/vnd.msgpack' -H 'accept: application/json' \\
  --data-binary @request.msgpack`,
  Python: (url) => `# pip install msgpack
import urllib.request

import msgpack

request = urllib.request.Request(
    "${url}",
    data=open("request.msgpack", "rb").read(),
    headers={"Content-Type": "application/vnd.msgpack"},
)
answer = msgpack.unpackb(urllib.request.urlopen(request).read())
print(answer["method"], answer["reason"])`,
  TypeScript: (_, route) => `import { readFile } from 'node:fs/promises';
import { Client, decodeRequest } from 'loragrad-client';

const client = new Client('${SERVICE.href}');
const request = decodeRequest(await readFile('request.msgpack'));
const answer = await client.${route}(request);
console.log(answer.method, answer.reason);`,
};

export function codeFor(route: Route, language: Language): string {
  const url = new URL(route, SERVICE).href;
  return (route === 'metrics' ? WITHOUT_BODY : WITH_BODY)[language](url, route);
}
