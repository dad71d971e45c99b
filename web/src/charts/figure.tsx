/** A picture with its numbers as table and download, and the request that they come from. */
import type { ComponentChildren } from 'preact';
import { download, type Row, toCsv } from '../data/download.js';
import { RequestCode, type Source } from '../panels/request-code.js';

interface Props {
  readonly title: string;
  readonly text: string;
  /** Of the files. */
  readonly name: string;
  readonly rows: readonly Row[];
  readonly source: Source;
  readonly children: ComponentChildren;
}

const shown = (value: Row[string] | undefined): string =>
  typeof value === 'number' ? String(Number(value.toPrecision(4))) : String(value ?? '');

export function Figure({ title, text, name, rows, source, children }: Props) {
  const columns = Object.keys(rows[0] ?? {});
  return (
    <article class="card" aria-label={title}>
      <h2>{title}</h2>
      <p>{text}</p>
      {children}
      <details class="tools">
        <summary>Numbers</summary>
        <div class="row">
          <button type="button" onClick={() => download(`${name}.csv`, toCsv(rows), 'text/csv')}>
            Download CSV
          </button>
          <button
            type="button"
            onClick={() =>
              download(`${name}.json`, JSON.stringify(rows, null, 1), 'application/json')
            }
          >
            Download JSON
          </button>
        </div>
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls has to take the focus */}
        <section class="scroll" tabIndex={0} aria-label={`Numbers of ${title}`}>
          <table>
            <thead>
              <tr>
                {columns.map((column) => (
                  <th key={column} scope="col">
                    {column}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {rows.map((row, k) => (
                <tr key={k}>
                  {columns.map((column) => (
                    <td key={column}>{shown(row[column])}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      </details>
      <RequestCode {...source} />
    </article>
  );
}
