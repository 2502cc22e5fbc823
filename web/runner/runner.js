// The page's main thread: holds the control link and starts the worker that computes.
import init, { control_main, forward_console } from '/runner/runtime.js';

const [control, data] = location.hash.slice(1).split('.');
const url = `${location.protocol === 'https:' ? 'wss:' : 'ws:'}//${location.host}/link`;

function fail(error) {
  if (window.flotillaError) return;
  window.flotillaError = String(error?.stack ?? error);
  document.getElementById('state').textContent = window.flotillaError;
  const body = JSON.stringify({ token: control, error: window.flotillaError });
  fetch('/runner/failure', { method: 'POST', headers: { 'content-type': 'application/json' }, body }).catch(() => {});
}

try {
  await init({ module_or_path: '/runner/runtime_bg.wasm' });
  for (const level of ['debug', 'log', 'info', 'warn', 'error']) {
    const original = console[level];
    console[level] = (...values) => {
      original.apply(console, values);
      forward_console(level, values.map(String).join(' '));
    };
  }
  addEventListener('error', (event) => forward_console('error', `uncaught: ${event.message}`));
  addEventListener('unhandledrejection', (event) => forward_console('error', `unhandled rejection: ${event.reason}`));
  control_main(url, control);

  const worker = new Worker('/runner/worker.js', { type: 'module' });
  worker.addEventListener('error', (event) => fail(`worker: ${event.message ?? 'it could not be loaded'}`));
  worker.addEventListener('message', ({ data: message }) => {
    if (message.failed) fail(message.failed);
    else forward_console(message.level, message.text);
  });
  worker.postMessage({ url, token: data });
  document.getElementById('state').textContent = 'running';
} catch (error) {
  fail(error);
}
