/** How a tensor looks on the wire, for the OpenAPI document. */
import Type from 'typebox';
import { DTYPES } from '../../workers/tensor/dtype.js';
import { REFERENCE_KEY } from './tree/reference.js';

export const TENSOR_SCHEMA_ID = 'Tensor';
export const GIVEN_TENSOR_SCHEMA_ID = 'GivenTensor';

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

/** Not by `properties`: tools take a property of this name for a reference of their own. */
const Reference = Type.Unsafe({
  type: 'object',
  title: 'Reference',
  description:
    '{"$ref": "sha256:<hex>"}: a tensor that was sent with PUT /tensors/{sha256}, by the same digest.',
  propertyNames: { enum: [REFERENCE_KEY] },
  minProperties: 1,
  maxProperties: 1,
  additionalProperties: { type: 'string', pattern: '^sha256:[0-9a-f]{64}$' },
});

/** The descriptions; what is checked is the decoded tensor (see plugins/validation.ts). */
export const TensorSchema = Type.Unsafe({
  $id: TENSOR_SCHEMA_ID,
  description:
    'A dense tensor. In MessagePack also what the Python package msgpack-numpy writes. The answer holds tensors in the form of the request.',
  anyOf: [TensorMap, NestedList],
});

export const GivenTensorSchema = Type.Unsafe({
  $id: GIVEN_TENSOR_SCHEMA_ID,
  description: 'A tensor, or a reference to one that the service keeps.',
  anyOf: [{ $ref: `${TENSOR_SCHEMA_ID}#` }, Reference],
});

function field<Leaf>(schemaId: string, description: string) {
  // A description beside $ref would be lost on the way into the document.
  return Type.Unsafe<Leaf>({ description, allOf: [{ $ref: `${schemaId}#` }] });
}

/** A tensor as a field of an answer. `description` gives its meaning and shape. */
export function tensorField<Leaf>(description: string) {
  return field<Leaf>(TENSOR_SCHEMA_ID, description);
}

/** A tensor as a field of a request, where a reference may stand in its place. */
export function givenTensorField<Leaf>(description: string) {
  return field<Leaf>(GIVEN_TENSOR_SCHEMA_ID, description);
}
