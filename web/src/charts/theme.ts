/** Colours of the page, for what is drawn on a canvas; changes when the system's scheme does. */
import { useEffect, useState } from 'preact/hooks';

const NAMES = ['text', 'line', 'accent', 'good', 'bad', 'quiet', 'card'] as const;
export type Theme = Readonly<Record<(typeof NAMES)[number], string>>;

/** The colours as the browser resolves them: a canvas does not know light-dark(). */
function read(): Theme {
  const probe = document.createElement('span');
  document.body.append(probe);
  const colours = NAMES.map((name) => {
    probe.style.color = `var(--${name})`;
    return [name, getComputedStyle(probe).color];
  });
  probe.remove();
  return Object.fromEntries(colours) as Theme;
}

export function useTheme(): Theme {
  const [theme, set] = useState(read);
  useEffect(() => {
    const dark = matchMedia('(prefers-color-scheme: dark)');
    const follow = () => set(read());
    dark.addEventListener('change', follow);
    return () => dark.removeEventListener('change', follow);
  }, []);
  return theme;
}
