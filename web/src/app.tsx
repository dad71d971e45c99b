/** Three panels; the address after # says which, so that it can be linked to. */
import { useEffect, useState } from 'preact/hooks';
import { Access } from './panels/access.js';
import { ServicePanel } from './panels/service.js';
import { SweepPanel } from './panels/sweep.js';
import { TransitionPanel } from './panels/transition.js';

const PANELS = [
  { id: 'transition', title: 'Phase transition', Panel: TransitionPanel },
  { id: 'sweep', title: 'Sweep', Panel: SweepPanel },
  { id: 'service', title: 'This service', Panel: ServicePanel },
] as const;

const panelOfAddress = () => PANELS.find(({ id }) => `#${id}` === location.hash) ?? PANELS[0];

export function App() {
  const [shown, show] = useState(panelOfAddress);
  /** With another key the panels begin anew. */
  const [keys, countKeys] = useState(0);
  useEffect(() => {
    const follow = () => show(panelOfAddress());
    addEventListener('hashchange', follow);
    return () => removeEventListener('hashchange', follow);
  }, []);
  return (
    <>
      <header>
        <h1>loragrad</h1>
        <nav aria-label="Panels">
          {PANELS.map(({ id, title }) => (
            <a key={id} href={`#${id}`} aria-current={id === shown.id ? 'page' : undefined}>
              {title}
            </a>
          ))}
        </nav>
        <nav aria-label="Documents">
          <a href="docs">API</a>
          <a href="guide/">Guide</a>
          <a href="https://arxiv.org/abs/2406.03136">Paper</a>
        </nav>
      </header>
      <main>
        <Access entered={() => countKeys((n) => n + 1)} />
        {PANELS.map(({ id, title, Panel }) => (
          <section key={id} hidden={id !== shown.id} aria-label={title}>
            <Panel key={keys} shown={id === shown.id} />
          </section>
        ))}
      </main>
    </>
  );
}
