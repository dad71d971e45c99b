/** Element types on the wire: the torch name is canonical, numpy and safetensors names are read too. */
export const DTYPES = ['float32', 'float64', 'float16', 'bfloat16'] as const;
export type Dtype = (typeof DTYPES)[number];

export const ITEM_SIZE: Readonly<Record<Dtype, number>> = {
  float64: 8,
  float32: 4,
  float16: 2,
  bfloat16: 2,
};
