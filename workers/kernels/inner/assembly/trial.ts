/** Single rows of P and of its approximation, side by side, in float64; see low-rank/trial-block.ts. */

// @ts-ignore: decorator
@inline
function f32At(x: usize, i: i32): f64 {
  return <f64>load<f32>(x + (<usize>i << 2));
}

// @ts-ignore: decorator
@inline
function f64At(x: usize, i: i32): f64 {
  return load<f64>(x + (<usize>i << 3));
}

/**
 * other[j] = scale low[j] + exactly[j] e[j]; out = (sum_j w_j other[j], sum_j w_j other[j] t[j]).
 * low, e and t are float32, the others float64.
 */
export function joined_row(
  n: i32, scale: f64, low: usize, exactly: usize, e: usize, weight: usize, t: usize, other: usize,
  out: usize,
): void {
  let total: f64 = 0;
  let dot: f64 = 0;
  for (let j = 0; j < n; j++) {
    const x = scale * f32At(low, j) + f64At(exactly, j) * f32At(e, j);
    store<f64>(other + (<usize>j << 3), x);
    const weighted = f64At(weight, j) * x;
    total += weighted;
    dot += weighted * f32At(t, j);
  }
  store<f64>(out, total);
  store<f64>(out, dot, 8);
}

/**
 * With p = e inverse, off = p - other otherInverse and ds = off (t - mean) + p shift, the squares
 * u_j ds^2 and v_j off^2: out = their sums over j with weights w_j, and times forScore and forValue they
 * are added to the columns. e and t are float32, the others float64.
 */
export function row_errors(
  n: i32, inverse: f64, otherInverse: f64, mean: f64, shift: f64, forScore: f64, forValue: f64,
  e: usize, t: usize, other: usize, weight: usize, u: usize, v: usize,
  scoreColumns: usize, valueColumns: usize, out: usize,
): void {
  let score: f64 = 0;
  let value: f64 = 0;
  for (let j = 0; j < n; j++) {
    const p = inverse * f32At(e, j);
    const off = p - otherInverse * f64At(other, j);
    const ds = off * (f32At(t, j) - mean) + p * shift;
    const scoreSquare = f64At(u, j) * ds * ds;
    const valueSquare = f64At(v, j) * off * off;
    const w = f64At(weight, j);
    score += w * scoreSquare;
    value += w * valueSquare;
    const at = <usize>j << 3;
    store<f64>(scoreColumns + at, load<f64>(scoreColumns + at) + forScore * scoreSquare);
    store<f64>(valueColumns + at, load<f64>(valueColumns + at) + forValue * valueSquare);
  }
  store<f64>(out, score);
  store<f64>(out, value, 8);
}
