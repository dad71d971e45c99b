/** The documents as a site, which the service shows at /guide/ when it has been built. */
import type { Plugin } from 'vite';
import { defineConfig } from 'vitepress';

/** Documents outside this folder that have a page here, and how documents link to them in the repository. */
const ELSEWHERE = [
  [/^(?:\.\.\/)+clients\/python\/README\.md/, '/client-python.md'],
  [/^(?:\.\.\/)+clients\/typescript\/README\.md/, '/client-typescript.md'],
  [/^(?:\.\.\/)+docs\//, '/'],
  [/README\.md(?=#|$)/, 'index.md'],
] as const;

/** A link to a source file is no link on the site: its name says where it is in the repository. */
const SOURCE_LINK = /\[([^\]]+)\]\((?:\.\.\/)+[^)]*\.(?:py|ts|yml|json)\)/g;

const sourceLinks: Plugin = {
  name: 'source-links',
  enforce: 'pre',
  transform: (code, id) => (id.endsWith('.md') ? code.replaceAll(SOURCE_LINK, '$1') : null),
};

export default defineConfig({
  title: 'loragrad',
  description: 'LoRA gradients of attention layers over HTTP, with error bars',
  // Every address relative, so that the site works below any path.
  base: './',
  outDir: '../dist/guide',
  cleanUrls: false,
  head: [['link', { rel: 'icon', href: 'data:,' }]],
  rewrites: { 'method/README.md': 'method/index.md', 'decisions/README.md': 'decisions/index.md' },
  ignoreDeadLinks: [/^https?:\/\/(127\.0\.0\.1|localhost)/],
  markdown: {
    config: (md) => {
      const normalize = md.normalizeLink;
      md.normalizeLink = (url) =>
        normalize(ELSEWHERE.reduce((link, [from, to]) => link.replace(from, to), url));
    },
  },
  vite: { plugins: [sourceLinks] },
  themeConfig: {
    search: { provider: 'local' },
    nav: [
      { text: 'Explorer', link: '/../', target: '_self' },
      { text: 'Try the API', link: '/../docs', target: '_self' },
    ],
    sidebar: [
      {
        text: 'Start',
        items: [
          { text: 'What it is', link: '/' },
          { text: 'Concepts', link: '/concepts' },
          { text: 'Error bars for trainers', link: '/trainers' },
          { text: 'Training through the service', link: '/training' },
        ],
      },
      {
        text: 'Use',
        items: [
          { text: 'The API', link: '/api' },
          { text: 'Clients', link: '/clients' },
          { text: 'Python', link: '/client-python' },
          { text: 'TypeScript', link: '/client-typescript' },
          { text: 'Operations', link: '/operations' },
          { text: 'Under load', link: '/load' },
          { text: 'More than one machine', link: '/scaling' },
          { text: 'Problems', link: '/problems' },
        ],
      },
      {
        text: 'Method',
        items: [
          { text: 'Overview', link: '/method/' },
          { text: 'Theory', link: '/method/theory' },
          { text: 'Kernels', link: '/method/kernels' },
          { text: 'Drawn keys', link: '/method/sampled' },
          { text: 'Error bars', link: '/method/error-bars' },
          { text: 'Experiments', link: '/method/experiments' },
          { text: 'Benchmarks', link: '/benchmarks' },
        ],
      },
      {
        text: 'Project',
        items: [
          { text: 'Architecture', link: '/architecture' },
          { text: 'Decisions', link: '/decisions/' },
        ],
      },
    ],
  },
});
