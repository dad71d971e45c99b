/** The request behind a picture, to repeat elsewhere. */
import { encodeRequest, type GradientRequest } from 'loragrad-client';
import { useState } from 'preact/hooks';
import { codeFor, LANGUAGES, type Language, type Route } from '../data/code.js';
import { download } from '../data/download.js';

export interface Source {
  readonly route: Route;
  /** null: the route takes no body. */
  readonly request: GradientRequest | null;
}

export function RequestCode({ route, request }: Source) {
  const [language, choose] = useState<Language>('curl');
  const [copied, setCopied] = useState(false);
  const code = codeFor(route, language);
  const save = () => {
    const body = encodeRequest(request as GradientRequest) as Uint8Array<ArrayBuffer>;
    download('request.msgpack', body, 'application/vnd.msgpack');
  };
  const copy = async () => {
    await navigator.clipboard.writeText(code);
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return (
    <details class="tools">
      <summary>Request</summary>
      <div class="row">
        {request && (
          <button type="button" onClick={save}>
            Download request.msgpack
          </button>
        )}
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
    </details>
  );
}
