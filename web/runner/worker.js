// The page's worker: holds the data link and the runtime, so that a long computation never looks like a death.
import init, { worker_main } from '/runner/runtime.js';

for (const level of ['debug', 'log', 'info', 'warn', 'error']) {
  const original = console[level];
  console[level] = (...values) => {
    original.apply(console, values);
    postMessage({ level, text: values.map(String).join(' ') });
  };
}
addEventListener('unhandledrejection', (event) => postMessage({ level: 'error', text: `unhandled rejection: ${event.reason}` }));

addEventListener('message', async ({ data: { url, token } }) => {
  try {
    await init({ module_or_path: '/runner/runtime_bg.wasm' });
    worker_main(url, token);
  } catch (error) {
    postMessage({ failed: String(error?.stack ?? error) });
  }
}, { once: true });
