// Asks for models, hands each to a worker of its own, and brings back what that says.

function failed(reason) {
  return { head: { tell: 'failed', reason }, elements: [] };
}

function run(order) {
  const worker = new Worker('worker.js', { type: 'module' });
  const answer = new Promise((resolve) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onmessageerror = () => resolve(failed('the worker: its answer cannot be read'));
    worker.onerror = ({ message }) => resolve(failed(`the worker: ${message ?? 'it could not be loaded'}`));
  });
  worker.postMessage(order);
  return answer.finally(() => worker.terminate());
}

for (;;) {
  const response = await fetch('job/next');
  // There is none yet.
  if (response.status === 204) continue;
  const { head, elements } = await run(await response.json());
  const bytes = new TextEncoder().encode(JSON.stringify(head));
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, bytes.length, true);
  await fetch('job/answer', { method: 'POST', body: new Blob([length, bytes, ...elements]) });
}
