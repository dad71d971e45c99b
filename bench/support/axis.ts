/** An axis of a plot: where a value lies between 0 and 1, and which values get a tick. */
export interface AxisOptions {
  readonly label: string;
  readonly scale: 'log' | 'linear';
  readonly format?: (value: number) => string;
  /** Put ticks at these values and nowhere else. */
  readonly ticks?: readonly number[];
  /** Values that the axis must reach, besides the data. */
  readonly include?: readonly number[];
}

export interface Axis {
  readonly label: string;
  /** From 0, the lower end, to 1. */
  at(value: number): number;
  readonly ticks: readonly { readonly at: number; readonly text: string }[];
}

const MARGIN = 0.04;

/** @throws {RangeError} when there is no value, or one that the scale cannot show. */
export function axis(options: AxisOptions, data: readonly number[]): Axis {
  const { scale, format = String } = options;
  const values = [...data, ...(options.include ?? [])];
  const warp = scale === 'log' ? Math.log10 : (value: number) => value;
  const [low, high] = [Math.min(...values.map(warp)), Math.max(...values.map(warp))];
  if (!Number.isFinite(low) || !Number.isFinite(high)) {
    throw new RangeError(`The axis ${options.label} cannot show ${values.join(', ')}`);
  }
  // A single value lies in the middle of something.
  const room = high > low ? (high - low) * MARGIN : scale === 'log' ? 0.3 : Math.abs(high) / 2 || 1;
  const [from, to] = [low - room, high + room];
  const at = (value: number) => (warp(value) - from) / (to - from);
  const ticks = options.ticks ?? (scale === 'log' ? logTicks(from, to) : linearTicks(from, to));
  return {
    label: options.label,
    at,
    ticks: ticks
      .map((value) => ({ at: at(value), text: format(value) }))
      .filter((tick) => tick.at >= 0 && tick.at <= 1),
  };
}

/** 1, 2, 5 of each decade; where there are many decades, 1 alone. Ends are exponents. */
function logTicks(from: number, to: number): number[] {
  const mantissas = to - from > 3 ? [1] : [1, 2, 5];
  const ticks: number[] = [];
  for (let exponent = Math.floor(from); exponent <= Math.ceil(to); exponent++) {
    for (const mantissa of mantissas) ticks.push(Number(`${mantissa}e${exponent}`));
  }
  return ticks;
}

/** About five steps of 1, 2 or 5 times a power of ten. */
function linearTicks(from: number, to: number): number[] {
  const rough = (to - from) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough)! * power;
  const ticks: number[] = [];
  for (let k = Math.ceil(from / step); k * step <= to; k++) {
    ticks.push(Number((k * step).toPrecision(12)));
  }
  return ticks;
}
