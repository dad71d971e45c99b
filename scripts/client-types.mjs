/** The types of clients/typescript, made of openapi/openapi.json before the client is compiled. */

/** Those of clients/typescript/src/tensors.ts: in memory a tensor is a typed array. */
const TENSORS = ['GivenTensor', 'Tensor'];

function comment(text, indent) {
  return text ? `${indent}/** ${text.replaceAll('*/', '*\\/').replaceAll('\n', ' ')} */\n` : '';
}

function objectType({ properties = {}, required = [] }, indent) {
  const inner = `${indent}  `;
  const fields = Object.entries(properties).map(([name, schema]) => {
    const key = /^\w+$/.test(name) ? name : JSON.stringify(name);
    const mark = required.includes(name) ? '' : '?';
    const type = typeOf(schema, inner);
    return `${comment(schema.description, inner)}${inner}readonly ${key}${mark}: ${type};\n`;
  });
  return `{\n${fields.join('')}${indent}}`;
}

/** The TypeScript of a JSON schema. @throws {Error} for a schema that has no type of its own yet. */
function typeOf(schema, indent) {
  const union = (schemas) => [...new Set(schemas.map((one) => typeOf(one, indent)))].join(' | ');
  if (schema.$ref) return schema.$ref.slice(schema.$ref.lastIndexOf('/') + 1);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.allOf?.length === 1) return typeOf(schema.allOf[0], indent);
  const either = schema.anyOf ?? schema.oneOf;
  if (either) return union(either);
  switch (schema.type) {
    case 'integer':
    case 'number':
      return 'number';
    case 'string':
    case 'boolean':
    case 'null':
      return schema.type;
    case 'array':
      return `readonly (${schema.items ? typeOf(schema.items, indent) : 'unknown'})[]`;
    case 'object':
      if (schema.properties) return objectType(schema, indent);
      if (typeof schema.additionalProperties === 'object') {
        return `Readonly<Record<string, ${typeOf(schema.additionalProperties, indent)}>>`;
      }
  }
  throw new Error(`No type for ${JSON.stringify(schema).slice(0, 200)}`);
}

/** @param json the OpenAPI document. */
export function clientTypes(json) {
  const { components, paths } = JSON.parse(json);
  const limits = paths['/limits'].get.responses['200'].content['application/json'].schema;
  const schemas = { ...components.schemas, Limits: limits };
  const types = Object.entries(schemas)
    .filter(([name]) => !TENSORS.includes(name))
    .map(([name, schema]) => {
      const alias = schema.properties
        ? `export interface ${name} ${objectType(schema, '')}`
        : `export type ${name} = ${typeOf(schema, '')};`;
      return `${comment(schema.description, '')}${alias}\n`;
    });
  return `/** Requests and answers. Made of openapi/openapi.json by npm run build; do not edit. */
import type { ${TENSORS.join(', ')} } from './tensors.js';

${types.join('\n')}`;
}
