// The page's main thread: holds the control link and starts the worker that computes.
import init, { control_main, drop_control_link, forward_console } from '/runner/runtime.js';

const [control, data, faults] = location.hash.slice(1).split('.');
const url = `${location.protocol === 'https:' ? 'wss:' : 'ws:'}//${location.host}/link`;

function fail(error) {
  if (window.flotillaError) return;
  window.flotillaError = String(error?.stack ?? error);
  document.getElementById('state').textContent = window.flotillaError;
  const body = JSON.stringify({ token: control, error: window.flotillaError });
  fetch('/runner/failure', { method: 'POST', headers: { 'content-type': 'application/json' }, body }).catch(() => {});
}

// Faults that a WebDriver script injects into this page: `flotillaFault(name, amount)`. Resolves to whether the fault happened;
// for `hang` and `silence`, which cannot report it, to true.
//   hang            this thread loops for ever, so the heartbeats end; the worker goes on
//   drop_control    the control link closes
//   silence         the worker loops for ever, and the heartbeats go on
//   lose_device     the worker's device is destroyed while the runtime uses it
//   drop_data       the data link closes
//   slow_down       runs take `amount` times as long
//   wrong_answers   results are wrong if `amount` is not 0
//   memory          the worker holds `amount` MB more
function suffer(worker, name, amount = 0) {
  if (name === 'hang') {
    // After a delay, so that the script that injects this gets its answer.
    setTimeout(() => { for (;;); }, 100);
    return Promise.resolve(true);
  }
  if (name === 'drop_control') return Promise.resolve(drop_control_link());
  const { port1, port2 } = new MessageChannel();
  const happened = new Promise((resolve) => { port1.onmessage = ({ data }) => resolve(data); });
  worker.postMessage({ fault: { name, amount } }, [port2]);
  return name === 'silence' ? Promise.resolve(true) : happened;
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
  // Only pages that were opened for faults have this function.
  if (faults === 'faults') window.flotillaFault = (name, amount) => suffer(worker, name, amount);
  document.getElementById('state').textContent = 'running';
} catch (error) {
  fail(error);
}
