/** Element types on the wire: the torch name is canonical, numpy and safetensors names are read too. */
export const DTYPES = ['float32', 'float64', 'float16', 'bfloat16'] as const;
export type Dtype = (typeof DTYPES)[number];

export const ITEM_SIZE: Readonly<Record<Dtype, number>> = {
  float64: 8,
  float32: 4,
  float16: 2,
  bfloat16: 2,
};

/**
 * The name that numpy writes for little-endian data of this type. numpy has no bfloat16: those tensors
 * are widened to float32 when they are sent as numpy arrays.
 */
export const NUMPY_NAME: Readonly<Record<Exclude<Dtype, 'bfloat16'>, string>> = {
  float64: '<f8',
  float32: '<f4',
  float16: '<f2',
};

const NAMES = new Map<string, Dtype>([
  ...DTYPES.map((dtype): [string, Dtype] => [dtype, dtype]),
  ['f8', 'float64'],
  ['f4', 'float32'],
  ['f2', 'float16'],
  ['F64', 'float64'],
  ['F32', 'float32'],
  ['F16', 'float16'],
  ['BF16', 'bfloat16'],
]);

/**
 * Reads a torch name ('float32', 'torch.float32'), a numpy name ('<f4', '=f4', 'f4', '|f4') or a
 * safetensors name ('F32'). null for anything else, big-endian names among them.
 */
export function parseDtype(name: string): Dtype | null {
  const torch = name.startsWith('torch.') ? name.slice('torch.'.length) : null;
  if (torch !== null) return DTYPES.find((dtype) => dtype === torch) ?? null;
  // A byte order only stands before a numpy type code, not before a torch or safetensors name.
  const bare = /^[<=|](?=f\d)/.test(name) ? name.slice(1) : name;
  return NAMES.get(bare) ?? null;
}

/** True for a numpy name of a float type with its bytes in big-endian order, such as '>f4'. */
export function isBigEndian(name: string): boolean {
  return /^[>!]f\d+$/.test(name);
}

/** A list of the accepted names, for error messages and documentation. */
export const ACCEPTED_DTYPES = `${DTYPES.join(', ')} (numpy '<f4', '<f8', '<f2' and safetensors 'F32', 'F64', 'F16', 'BF16' are read too)`;
