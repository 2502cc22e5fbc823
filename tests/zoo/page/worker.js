// Runs one model with onnxruntime-web on each of its data sets.

// The file that the package's users load for a provider.
const BUNDLES = { webgpu: 'ort.webgpu.bundle.min.mjs', wasm: 'ort.wasm.bundle.min.mjs' };

// Our name of a type, by theirs; and what holds elements of it.
const TYPES = {
  float32: ['F32', Float32Array],
  float64: ['F64', Float64Array],
  // Their tensors take half precision as whatever this browser has for it.
  float16: ['F16', globalThis.Float16Array ?? Uint16Array],
  int8: ['I8', Int8Array],
  uint8: ['U8', Uint8Array],
  int16: ['I16', Int16Array],
  uint16: ['U16', Uint16Array],
  int32: ['I32', Int32Array],
  uint32: ['U32', Uint32Array],
  int64: ['I64', BigInt64Array],
  uint64: ['U64', BigUint64Array],
  bool: ['Bool', Uint8Array],
};

class Refused extends Error {}

const words = (error) => String(error?.message ?? error);

// As our own runtime names an adapter.
const named = ({ vendor, architecture, device, description }) =>
  description || [vendor, architecture, device].filter(Boolean).join(' ') || '(unnamed)';

async function bytes(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: status ${response.status}`);
  return response.arrayBuffer();
}

async function inputs(ort, set) {
  const frame = await bytes(`job/inputs/${set}`);
  const length = new DataView(frame).getUint32(0, true);
  const ports = JSON.parse(new TextDecoder().decode(new Uint8Array(frame, 4, length)));
  let at = 4 + length;
  const feeds = {};
  for (const { name, dtype, shape } of ports) {
    const [type, [, Elements]] = Object.entries(TYPES).find(([, [ours]]) => ours === dtype);
    const end = at + shape.reduce((all, dim) => all * dim, Elements.BYTES_PER_ELEMENT);
    feeds[name] = new ort.Tensor(type, new Elements(frame.slice(at, end)), shape);
    at = end;
  }
  return feeds;
}

async function run({ provider, sets }) {
  const dist = new URL('ort/', import.meta.url).href;
  const ort = await import(dist + BUNDLES[provider]);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = dist;
  ort.env.logLevel = 'error';
  const model = new Uint8Array(await bytes('job/model'));
  const head = { tell: 'ran', sets: [] };
  const elements = [];
  let begin = performance.now();
  const session = await ort.InferenceSession.create(model, { executionProviders: [provider] }).catch((error) => {
    throw new Refused(words(error));
  });
  head.load_ms = performance.now() - begin;
  if (provider === 'webgpu') head.adapter = named((await ort.env.webgpu.device).adapterInfo);
  for (const [set, wanted] of sets.entries()) {
    const feeds = await inputs(ort, set);
    const timed = async () => {
      begin = performance.now();
      const outputs = await session.run(feeds, wanted);
      const tensors = [];
      for (const name of wanted) tensors.push([name, outputs[name], await outputs[name].getData()]);
      return [performance.now() - begin, tensors];
    };
    const [first, tensors] = await timed();
    const ports = [];
    for (const [name, { type, dims }, data] of tensors) {
      if (!(type in TYPES)) throw new Error(`output ${name} is of type ${type}`);
      ports.push({ name, dtype: TYPES[type][0], shape: dims });
      elements.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice());
    }
    head.sets.push(ports);
    if (set === 0) [head.first_ms, head.run_ms] = [first, (await timed())[0]];
  }
  return { head, elements };
}

const failed = (error) => {
  const tell = error instanceof Refused ? 'refused' : 'failed';
  return { head: { tell, reason: words(error) }, elements: [] };
};

// What their module throws where nobody awaits it leaves its promise open for ever.
addEventListener('unhandledrejection', ({ reason }) => postMessage(failed(reason)));
addEventListener('message', async ({ data: order }) => postMessage(await run(order).catch(failed)));
