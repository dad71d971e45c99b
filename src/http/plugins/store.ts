/** The tensor store: references in a body become its tensors, and the metrics tell how it does. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Counter, Gauge } from 'prom-client';
import { wireBytes } from '../../../workers/tensor/tensor.js';
import type { KnownTensors } from '../../store/known-tensors.js';
import { referencesIn, resolveReferences } from '../../store/resolve.js';
import { keeperOf } from '../access/quotas.js';

async function storePlugin(app: FastifyInstance, options: { store: KnownTensors }): Promise<void> {
  const { store } = options;
  const registers = [app.metrics.registry];
  const references = new Counter({
    name: 'loragrad_store_references_total',
    help: 'References to tensors in requests: hit when the store had the tensor, else miss',
    labelNames: ['result'] as const,
    registers,
  });
  const referenced = new Counter({
    name: 'loragrad_store_referenced_bytes_total',
    help: 'Bytes of data that did not travel because a reference stood in their place',
    registers,
  });
  new Counter({
    name: 'loragrad_store_evicted_total',
    help: 'Tensors that had to make room for others',
    registers,
    collect() {
      this.reset();
      this.inc(store.own.evicted);
    },
  });
  new Gauge({
    name: 'loragrad_store_bytes',
    help: 'Memory of the tensors in the store',
    registers,
    collect() {
      this.set(store.own.bytes);
    },
  });
  new Gauge({
    name: 'loragrad_store_tensors',
    help: 'Tensors in the store',
    registers,
    collect() {
      this.set(store.own.count);
    },
  });

  async function resolve(request: FastifyRequest): Promise<void> {
    const names = referencesIn(request.body);
    if (names.size === 0) return;
    let bytes = 0;
    const keeper = keeperOf(request, store.own.limit);
    let reserved = 0;
    const known = await store.find(names, keeper, (forms) => {
      reserved = forms.reduce((sum, form) => sum + wireBytes(form), 0);
      if (reserved > 0) request.reserveMoreBytes(reserved);
    });
    request.body = resolveReferences(request.body, (name) => {
      const tensor = known.get(name);
      references.inc({ result: tensor ? 'hit' : 'miss' });
      bytes += tensor ? wireBytes(tensor) : 0;
      return tensor;
    });
    // Kernels need as much memory for these tensors as for those in the body.
    if (bytes > reserved) request.reserveMoreBytes(bytes - reserved);
    referenced.inc(bytes);
  }

  app.addHook('onClose', () => store.close());
  app.addHook('onRoute', (route) => {
    if (route.config?.compute) route.preHandler = [resolve, ...[route.preHandler ?? []].flat()];
  });
}

export default fp(storePlugin, { name: 'store', dependencies: ['metrics', 'clients'] });
