/** What JavaScript sees. Every function is described where it is defined. */
export { exp, largest, largest_norm, multiply, gather_rows, scatter_rows, sum_parts } from './elementwise';
export { pack, pack_transposed, gemm, gemm_tn } from './gemm';
export { scores, weights, values, gradients } from './attention';
export {
  add_row, combine, copy_columns, fold, row_dots, scale_rows, transpose,
} from './rows';
export {
  feature_products, feature_table, forms, signed_products, square_sums, weigh_features,
} from './features';
export {
  contract, group_sums, joined_row, outer, row_errors, running_softmax, score_gradient, take_centres,
} from './low-rank';
export { scale_columns, column_dots, rotate } from './wide';
export {
  add_keys, draw_keys, key_squares, key_worths, proxy_coordinates, proxy_keys, proxy_rows,
} from './proxy';
export { dots64, dots32, combine64, combine32 } from './double';
