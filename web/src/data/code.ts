/** The request of a picture, as programs to copy; its body is the file that the page offers beside them. */
import { SERVICE } from '../service.js';

export type Language = 'curl' | 'Python' | 'TypeScript';

export function codeFor(route: string, language: Language): string {
  const url = new URL(route, SERVICE).href;
  switch (language) {
    case 'curl':
      return `curl -s ${url} \\
  -H 'content-type: application/vnd.msgpack' -H 'accept: application/json' \\
  --data-binary @request.msgpack`;
    case 'Python':
      return `# pip install msgpack
import urllib.request

import msgpack

request = urllib.request.Request(
    "${url}",
    data=open("request.msgpack", "rb").read(),
    headers={"Content-Type": "application/vnd.msgpack"},
)
answer = msgpack.unpackb(urllib.request.urlopen(request).read())
print(answer["method"], answer["reason"])`;
    case 'TypeScript':
      return `import { readFile } from 'node:fs/promises';
import { Client, decodeRequest } from 'loragrad-client';

const client = new Client('${SERVICE.href}');
const request = decodeRequest(await readFile('request.msgpack'));
const answer = await client.${route}(request);
console.log(answer.method, answer.reason);`;
  }
}
