/** The largest of many values, without sorting them all. */

/** The k-th largest value, k from 1 to their number, in linear time: Hoare's selection. */
export function kthLargest(values: Float32Array | Float64Array, k: number): number {
  const a = values.slice();
  let [low, high] = [0, a.length - 1];
  while (low < high) {
    const pivot = a[(low + high) >> 1];
    let [i, j] = [low, high];
    // NaN stops both scans, so neither leaves the range.
    while (i <= j) {
      while (a[i] > pivot) i++;
      while (a[j] < pivot) j--;
      if (i > j) break;
      const x = a[i];
      a[i++] = a[j];
      a[j--] = x;
    }
    if (k - 1 <= j) high = j;
    else if (k - 1 >= i) low = i;
    else break;
  }
  return a[k - 1];
}

/** Positions of the n largest values, in rising order; among equals the earlier ones. */
export function largest(values: Float32Array | Float64Array, n: number): Int32Array {
  if (n <= 0 || values.length === 0) return new Int32Array(0);
  const limit = kthLargest(values, Math.min(n, values.length));
  const above: number[] = [];
  const equal: number[] = [];
  for (let i = 0; i < values.length; i++) {
    if (values[i] > limit) above.push(i);
    else if (values[i] === limit) equal.push(i);
  }
  return Int32Array.from([...above, ...equal.slice(0, n - above.length)]).sort();
}
