/** The request of the pictures, to repeat elsewhere. */
import { encodeRequest, type GradientRequest } from 'loragrad-client';
import { useState } from 'preact/hooks';
import { codeFor, type Language } from '../data/code.js';
import { download } from '../data/download.js';

const LANGUAGES: readonly Language[] = ['curl', 'Python', 'TypeScript'];

export function RequestCode({ request, route }: { request: GradientRequest; route: string }) {
  const [language, choose] = useState<Language>('curl');
  const [copied, setCopied] = useState(false);
  const code = codeFor(route, language);
  const save = () => {
    const body = encodeRequest(request) as Uint8Array<ArrayBuffer>;
    download('request.msgpack', body, 'application/vnd.msgpack');
  };
  const copy = async () => {
    await navigator.clipboard.writeText(code);
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return (
    <article class="card" aria-label="The request">
      <h2>The request</h2>
      <div class="row">
        <button type="button" onClick={save}>
          Download request.msgpack
        </button>
        {LANGUAGES.map((one) => (
          <button
            type="button"
            key={one}
            aria-pressed={one === language}
            onClick={() => choose(one)}
          >
            {one}
          </button>
        ))}
        <button type="button" onClick={copy}>
          {copied ? 'Copied' : 'Copy'}
        </button>
      </div>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls has to take the focus */}
      <pre tabIndex={0}>{code}</pre>
    </article>
  );
}
