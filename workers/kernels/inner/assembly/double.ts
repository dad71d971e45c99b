/** Passes in float64 over rows of x (n, k), for recomputing single rows of attention exactly. */

/** y (float64) = x (float32), n elements. */
export function widen(n: i32, x: usize, y: usize): void {
  let i = 0;
  for (; i + 4 <= n; i += 4, x += 16, y += 32) {
    const v = v128.load(x);
    v128.store(y, f64x2.promote_low_f32x4(v));
    v128.store(y, f64x2.promote_low_f32x4(v128.shuffle<f32>(v, v, 2, 3, 2, 3)), 16);
  }
  for (; i < n; i++, x += 4, y += 8) store<f64>(y, <f64>load<f32>(x));
}

/** out[j] = x_j . y */
export function dots64(n: i32, k: i32, x: usize, y: usize, out: usize): void {
  for (let j = 0; j < n; j++, out += 8) {
    let s0 = f64x2.splat(0), s1 = s0, s2 = s0, s3 = s0;
    let at = y;
    let c = 0;
    for (; c + 8 <= k; c += 8, x += 64, at += 64) {
      s0 = f64x2.add(s0, f64x2.mul(v128.load(x), v128.load(at)));
      s1 = f64x2.add(s1, f64x2.mul(v128.load(x, 16), v128.load(at, 16)));
      s2 = f64x2.add(s2, f64x2.mul(v128.load(x, 32), v128.load(at, 32)));
      s3 = f64x2.add(s3, f64x2.mul(v128.load(x, 48), v128.load(at, 48)));
    }
    const s = f64x2.add(f64x2.add(s0, s1), f64x2.add(s2, s3));
    let sum = f64x2.extract_lane(s, 0) + f64x2.extract_lane(s, 1);
    for (; c < k; c++, x += 8, at += 8) sum += load<f64>(x) * load<f64>(at);
    store<f64>(out, sum);
  }
}

/** out (k) += sum_j w[j] x_j */
export function combine64(n: i32, k: i32, w: usize, x: usize, out: usize): void {
  const row = <usize>k << 3;
  let j = 0;
  // Four rows at a time: one visit to out for all of them.
  for (; j + 4 <= n; j += 4, x += 4 * row) {
    const w0 = v128.load64_splat(w + (j << 3));
    const w1 = v128.load64_splat(w + (j << 3), 8);
    const w2 = v128.load64_splat(w + (j << 3), 16);
    const w3 = v128.load64_splat(w + (j << 3), 24);
    let c: usize = 0;
    for (; c + 16 <= row; c += 16) {
      const y = f64x2.add(
        f64x2.add(f64x2.mul(w0, v128.load(x + c)), f64x2.mul(w1, v128.load(x + row + c))),
        f64x2.add(f64x2.mul(w2, v128.load(x + 2 * row + c)), f64x2.mul(w3, v128.load(x + 3 * row + c))),
      );
      v128.store(out + c, f64x2.add(v128.load(out + c), y));
    }
    if (c < row) {
      for (let r = 0; r < 4; r++) {
        const y = load<f64>(w + ((j + r) << 3)) * load<f64>(x + <usize>r * row + c);
        store<f64>(out + c, load<f64>(out + c) + y);
      }
    }
  }
  for (; j < n; j++, x += row) {
    const weight = load<f64>(w + (j << 3));
    for (let c: usize = 0; c < row; c += 8) {
      store<f64>(out + c, load<f64>(out + c) + weight * load<f64>(x + c));
    }
  }
}
