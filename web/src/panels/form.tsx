/** What the data are like. */
import type { Settings } from '../data/settings.js';

interface Props {
  readonly settings: Settings;
  readonly change: (settings: Settings) => void;
  /** The sweep goes through all sizes of the logits itself. */
  readonly without?: keyof Settings;
}

const CHOICES: {
  readonly [Key in keyof Settings]: {
    label: string;
    of: readonly (readonly [Settings[Key], string])[];
  };
} = {
  length: {
    label: 'Length L',
    of: [512, 1024, 2048, 4096, 8192, 16384].map((L) => [L, String(L)]),
  },
  headDim: { label: 'Width of a head', of: [16, 32, 64, 128].map((d) => [d, String(d)]) },
  heads: { label: 'Heads', of: [1, 2, 4].map((heads) => [heads, String(heads)]) },
  spectrum: {
    label: 'Spectrum',
    of: [
      ['exponential', 'exponential'],
      ['harmonic', '1/n'],
      ['flat', 'flat'],
    ],
  },
  logits: {
    label: 'Size of the logits',
    of: [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4].map((size) => [size, String(size)]),
  },
  tail: {
    label: 'Rows',
    of: [
      ['normal', 'normal'],
      ['student', "heavy-tailed (Student's t, 4)"],
    ],
  },
  mask: {
    label: 'Mask',
    of: [
      ['none', 'none'],
      ['causal', 'causal'],
    ],
  },
  adapters: {
    label: 'Adapters',
    of: [
      ['qv', 'queries, values'],
      ['qkv', 'queries, keys, values'],
    ],
  },
  method: {
    label: 'Kernel',
    of: [
      ['auto', 'the cheapest'],
      ['exact', 'exact'],
      ['low_rank', 'low-rank'],
      ['sampled', 'sampled'],
    ],
  },
  tolerance: { label: 'Tolerance', of: [0.001, 0.01, 0.05, 0.1].map((x) => [x, `${100 * x} %`]) },
  seed: { label: 'Seed', of: [1, 2, 3, 4, 5].map((seed) => [seed, String(seed)]) },
};

export function Fields({ settings, change, without }: Props) {
  const names = (Object.keys(CHOICES) as (keyof Settings)[]).filter((name) => name !== without);
  return (
    <>
      {names.map((name) => {
        const { label, of } = CHOICES[name];
        const choose = (index: number) => change({ ...settings, [name]: of[index][0] });
        return (
          <label key={name}>
            {label}
            <select
              name={name}
              value={of.findIndex(([value]) => value === settings[name])}
              onChange={(event) => choose(Number(event.currentTarget.value))}
            >
              {of.map(([, text], k) => (
                <option key={text} value={k}>
                  {text}
                </option>
              ))}
            </select>
          </label>
        );
      })}
    </>
  );
}
