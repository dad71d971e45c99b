import assert from 'node:assert/strict';
import { test } from 'node:test';
import { axis } from '../../bench/support/axis.js';
import { linePlot } from '../../bench/support/plot.js';

test('equal factors are equal distances on a log axis', () => {
  const { at, ticks } = axis({ label: 'time', scale: 'log' }, [0.01, 10]);
  assert.ok(Math.abs(at(0.1) - at(0.01) - (at(10) - at(1))) < 1e-12);
  assert.deepEqual(
    ticks.map(({ text }) => text),
    ['0.01', '0.1', '1', '10'],
  );
});

test('a linear axis has round ticks inside its ends and reaches what it must include', () => {
  const { at, ticks } = axis({ label: 'ratio', scale: 'linear', include: [0] }, [0.7, 2.1]);
  assert.deepEqual(
    ticks.map(({ text }) => text),
    ['0', '0.5', '1', '1.5', '2'],
  );
  assert.ok(at(0) >= 0 && at(2.1) <= 1);
});

test('one value alone lies inside; a value that the scale cannot show is an error', () => {
  for (const scale of ['log', 'linear'] as const) {
    const { at } = axis({ label: 'x', scale }, [5]);
    assert.ok(at(5) > 0 && at(5) < 1);
  }
  assert.throws(() => axis({ label: 'x', scale: 'log' }, [0, 1]), RangeError);
  assert.throws(() => axis({ label: 'x', scale: 'linear' }, []), RangeError);
});

test('a plot shows every series with a legend, escapes names and holds no NaN', () => {
  const svg = linePlot({
    title: 'a < b & c',
    x: { label: 'L', scale: 'log', ticks: [1024, 4096] },
    y: { label: 'seconds', scale: 'log' },
    series: [
      {
        name: '<ours>',
        points: [
          [1024, 0.1],
          [4096, 1.6],
        ],
      },
      {
        name: 'wanted',
        points: [
          [1024, 0.2],
          [4096, 0.2],
        ],
        reference: true,
      },
    ],
  });
  assert.match(svg, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg"/);
  assert.match(svg, /<title>a &lt; b &amp; c<\/title>/);
  assert.match(svg, /&lt;ours&gt;/);
  assert.match(svg, /prefers-color-scheme:dark/);
  assert.doesNotMatch(svg, /NaN|Infinity|<ours>/);
  // Two points and the sample in the legend; the reference has no markers.
  assert.equal(svg.match(/<circle/g)?.length, 3);
  assert.equal(svg.match(/class="reference /g)?.length, 1);
});
