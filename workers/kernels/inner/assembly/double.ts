/** Passes in float64 over rows of x (n, k), float32 or float64, for recomputing single rows of attention exactly. */

/** Two elements of x in float64. */
// @ts-expect-error: a decorator of AssemblyScript
@inline
function two<T>(x: usize): v128 {
  return sizeof<T>() == 8 ? v128.load(x) : f64x2.promote_low_f32x4(v128.load64_zero(x));
}

/** out[v, j] = x_j . y_v */
function dots<T>(n: i32, k: i32, m: i32, x: usize, y: usize, out: usize): void {
  const size = sizeof<T>();
  for (let v = 0; v < m; v++, y += <usize>k << 3) {
    let from = x;
    for (let j = 0; j < n; j++, out += 8) {
      let s0 = f64x2.splat(0), s1 = s0, s2 = s0, s3 = s0;
      let at = y;
      let c = 0;
      for (; c + 8 <= k; c += 8, from += 8 * size, at += 64) {
        s0 = f64x2.add(s0, f64x2.mul(two<T>(from), v128.load(at)));
        s1 = f64x2.add(s1, f64x2.mul(two<T>(from + 2 * size), v128.load(at, 16)));
        s2 = f64x2.add(s2, f64x2.mul(two<T>(from + 4 * size), v128.load(at, 32)));
        s3 = f64x2.add(s3, f64x2.mul(two<T>(from + 6 * size), v128.load(at, 48)));
      }
      const s = f64x2.add(f64x2.add(s0, s1), f64x2.add(s2, s3));
      let sum = f64x2.extract_lane(s, 0) + f64x2.extract_lane(s, 1);
      for (; c < k; c++, from += size, at += 8) sum += <f64>load<T>(from) * load<f64>(at);
      store<f64>(out, sum);
    }
  }
}

export function dots64(n: i32, k: i32, m: i32, x: usize, y: usize, out: usize): void {
  dots<f64>(n, k, m, x, y, out);
}

export function dots32(n: i32, k: i32, m: i32, x: usize, y: usize, out: usize): void {
  dots<f32>(n, k, m, x, y, out);
}

/** out_v (k) += sum_j w[v, j] x_j */
function combine<T>(n: i32, k: i32, m: i32, w: usize, x: usize, out: usize): void {
  const size = sizeof<T>();
  const row = <usize>k * size;
  for (let v = 0; v < m; v++, w += <usize>n << 3, out += <usize>k << 3) {
    let from = x;
    let j = 0;
    // Four rows at a time: one visit to out for all of them.
    for (; j + 4 <= n; j += 4, from += 4 * row) {
      const w0 = v128.load64_splat(w + (j << 3));
      const w1 = v128.load64_splat(w + (j << 3), 8);
      const w2 = v128.load64_splat(w + (j << 3), 16);
      const w3 = v128.load64_splat(w + (j << 3), 24);
      let c: usize = 0;
      let to = out;
      for (; c + 2 * size <= row; c += 2 * size, to += 16) {
        const a = from + c;
        const y = f64x2.add(
          f64x2.add(f64x2.mul(w0, two<T>(a)), f64x2.mul(w1, two<T>(a + row))),
          f64x2.add(f64x2.mul(w2, two<T>(a + 2 * row)), f64x2.mul(w3, two<T>(a + 3 * row))),
        );
        v128.store(to, f64x2.add(v128.load(to), y));
      }
      if (c < row) {
        for (let r = 0; r < 4; r++) {
          const y = load<f64>(w + ((j + r) << 3)) * <f64>load<T>(from + <usize>r * row + c);
          store<f64>(to, load<f64>(to) + y);
        }
      }
    }
    for (; j < n; j++, from += row) {
      const weight = load<f64>(w + (j << 3));
      for (let c = 0; c < k; c++) {
        const to = out + (<usize>c << 3);
        store<f64>(to, load<f64>(to) + weight * <f64>load<T>(from + <usize>c * size));
      }
    }
  }
}

export function combine64(n: i32, k: i32, m: i32, w: usize, x: usize, out: usize): void {
  combine<f64>(n, k, m, w, x, out);
}

export function combine32(n: i32, k: i32, m: i32, w: usize, x: usize, out: usize): void {
  combine<f32>(n, k, m, w, x, out);
}
