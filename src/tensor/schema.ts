/** How a tensor looks on the wire, for the OpenAPI document. */
import Type from 'typebox';
import { DTYPES } from './dtype.js';

export const TENSOR_SCHEMA_ID = 'Tensor';

const TensorMap = Type.Object(
  {
    dtype: Type.String({
      description: `${DTYPES.join(', ')}; the numpy ('<f4') and safetensors ('F32') names are accepted too. Little endian.`,
      examples: ['float32'],
    }),
    shape: Type.Array(Type.Integer({ minimum: 1 }), {
      maxItems: 8,
      description: 'Sizes of the dimensions; data is row-major (C order).',
      examples: [[2, 3]],
    }),
    data: Type.String({
      contentEncoding: 'base64',
      description: 'prod(shape) x itemsize bytes. In MessagePack: bin. In JSON: base64.',
    }),
  },
  { additionalProperties: false, title: 'Tensor map' },
);

const NestedList = Type.Array(Type.Unsafe<unknown>({}), {
  title: 'Nested list',
  minItems: 1,
  description: 'Plain nested lists of numbers, read as float32: for small examples.',
  examples: [
    [
      [1, 2],
      [3, 4],
    ],
  ],
});

/** The description; what is checked is the decoded tensor (see plugins/validation.ts). */
export const TensorSchema = Type.Unsafe({
  $id: TENSOR_SCHEMA_ID,
  description:
    'A dense tensor. In MessagePack also what the Python package msgpack-numpy writes. The answer holds tensors in the form of the request.',
  anyOf: [TensorMap, NestedList],
});

/** A tensor as a field of a body or an answer. `description` gives its meaning and shape. */
export function tensorField<Leaf>(description: string) {
  // A description beside $ref would be lost on the way into the document.
  return Type.Unsafe<Leaf>({ description, allOf: [{ $ref: `${TENSOR_SCHEMA_ID}#` }] });
}
