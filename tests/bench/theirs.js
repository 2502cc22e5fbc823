// The worker that runs the same model with onnxruntime-web, beside the runner page's own worker. One worker holds one
// session: the number of threads is a setting of the whole module and cannot be changed after the first session.
const DIST = '/extra/npm/node_modules/onnxruntime-web/dist/';

// The package's file for each execution provider.
const BUNDLES = { webgpu: 'ort.webgpu.bundle.min.mjs', webnn: 'ort.all.bundle.min.mjs', wasm: 'ort.wasm.bundle.min.mjs' };

let ort;
let session;

async function create({ provider, threads, tokens, model }) {
  ort = await import(DIST + BUNDLES[provider]);
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = DIST;
  const options = { executionProviders: [provider], graphOptimizationLevel: 'all' };
  if (provider === 'webnn') {
    options.executionProviders = [{ name: 'webnn', deviceType: 'cpu' }];
    options.freeDimensionOverrides = { batch: 1, sequence: tokens };
    // The first session also starts the module. That time is not compared, because our runtime has started already, too.
    await (await ort.InferenceSession.create(model, { executionProviders: ['wasm'] })).release();
  }
  const begin = performance.now();
  session = await ort.InferenceSession.create(model, options);
  return { version: ort.env.versions.web, ms: performance.now() - begin };
}

// Measures from inputs in memory to the embedding in memory, as for our own runs.
async function run({ ids, values }) {
  const shape = [1, ids.length];
  const tokens = BigInt64Array.from(ids, BigInt);
  const mask = new BigInt64Array(ids.length).fill(1n);
  const begin = performance.now();
  const inputs = {
    input_ids: new ort.Tensor('int64', tokens, shape),
    attention_mask: new ort.Tensor('int64', mask, shape),
  };
  const { sentence_embedding: embedding } = await session.run(inputs);
  const result = await embedding.getData();
  const ms = performance.now() - begin;
  embedding.dispose();
  return { ms, values: values ? Array.from(result) : [] };
}

addEventListener('message', async ({ data: ask }) => {
  try {
    postMessage({ answer: await (ask.create ? create(ask.create) : run(ask.run)) });
  } catch (error) {
    postMessage({ error: String(error?.message ?? error) });
  }
});
