/** The picture of docs/architecture.md: layers, each of which imports from those below it only. */

interface Layer {
  readonly name: string;
  readonly what: string;
}

/** From the socket to the processor. */
const LAYERS: readonly (readonly Layer[])[] = [
  [
    { name: 'web/', what: 'explorer page' },
    { name: 'clients/', what: 'Python, TypeScript' },
  ],
  [{ name: 'src/http', what: 'plugins, routes, schemas: Fastify and no mathematics' }],
  [
    { name: 'src/wire', what: 'MessagePack and JSON, tensors as views' },
    { name: 'src/request', what: 'names on the wire to the problem' },
    { name: 'src/store', what: 'tensors that are kept' },
  ],
  [{ name: 'src/engine', what: 'the thread that runs jobs, and prices them' }],
  [{ name: 'src/solver', what: 'chooses a kernel, runs it, checks its answer, falls back' }],
  [
    { name: 'src/pool', what: 'worker threads that jobs take turns at' },
    { name: 'src/cluster', what: 'parts of large problems, elsewhere' },
  ],
  [{ name: 'workers/', what: 'problem.ts, tensor/, tasks/: all that a thread may load' }],
  [
    { name: 'kernels/exact', what: 'blocks of rows' },
    { name: 'kernels/low-rank', what: 'features' },
    { name: 'kernels/sampled', what: 'drawn keys' },
    { name: 'kernels/reference', what: 'float64' },
  ],
  [{ name: 'kernels/attention', what: 'the attention stage: rows of P by tiles' }],
  [
    { name: 'kernels/inner', what: 'inner loops as WebAssembly, bindings' },
    { name: 'native/', what: 'the same loops and the attention stage in C' },
  ],
];

const WIDTH = 760;
const MARGIN = 10;
const GAP = 12;
const HEIGHT = 54;
const STEP = HEIGHT + 26;

function box({ name, what }: Layer, x: number, y: number, width: number): string {
  const middle = x + width / 2;
  return `<rect x="${x}" y="${y}" width="${width}" height="${HEIGHT}" rx="8"/>
<text class="name" x="${middle}" y="${y + 22}">${name}</text>
<text x="${middle}" y="${y + 41}">${what}</text>`;
}

function arrow(y: number): string {
  const x = WIDTH / 2;
  return `<path d="M${x} ${y + 4}v14m-5 -5l5 5l5 -5"/>`;
}

export function architecturePicture(): string {
  const rows = LAYERS.map((row, k) => {
    const width = (WIDTH - 2 * MARGIN - GAP * (row.length - 1)) / row.length;
    const y = MARGIN + k * STEP;
    const boxes = row.map((layer, i) => box(layer, MARGIN + i * (width + GAP), y, width));
    return [...boxes, ...(k + 1 < LAYERS.length ? [arrow(y + HEIGHT)] : [])].join('\n');
  });
  const height = 2 * MARGIN + (LAYERS.length - 1) * STEP + HEIGHT;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="Layers of loragrad, from the socket to the inner loops">
<style>
svg { background: #fff }
rect { fill: #eef3fb; stroke: #4a6fa5 }
path { fill: none; stroke: #4a6fa5; stroke-width: 1.5 }
text { font: 12px system-ui, sans-serif; text-anchor: middle; fill: #333 }
.name { font: bold 14px ui-monospace, monospace; fill: #123 }
</style>
${rows.join('\n')}
</svg>
`;
}
