// The page's worker: holds the data link and the runtime, so that a long computation does not stop the main thread's heartbeats.
import init, { suffer, worker_main } from '/runner/runtime.js';

for (const level of ['debug', 'log', 'info', 'warn', 'error']) {
  const original = console[level];
  console[level] = (...values) => {
    original.apply(console, values);
    postMessage({ level, text: values.map(String).join(' ') });
  };
}
addEventListener('unhandledrejection', (event) => postMessage({ level: 'error', text: `unhandled rejection: ${event.reason}` }));

// Memory that the fault `memory` allocated, in pieces small enough for every browser.
const hoard = [];
const MB = 1 << 20;

function fault({ name, amount }) {
  switch (name) {
    case 'silence':
      for (;;);
    case 'memory':
      for (let left = amount; left > 0; left -= 64) hoard.push(new Uint8Array(Math.min(left, 64) * MB).fill(1));
      return true;
    default:
      return suffer(name, amount);
  }
}

addEventListener('message', async ({ data: message, ports }) => {
  if (message.fault) {
    ports[0].postMessage(fault(message.fault));
    return;
  }
  try {
    await init({ module_or_path: '/runner/runtime_bg.wasm' });
    worker_main(message.url, message.token);
  } catch (error) {
    postMessage({ failed: String(error?.stack ?? error) });
  }
});
