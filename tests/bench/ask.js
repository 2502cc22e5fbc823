// Body of a WebDriver script: sends `ask` to the worker of that name and returns its answer, or null if none arrives
// within `patience_ms`. A script with the same number waits for the same answer again.
const [ask, patience_ms, done] = arguments;
const workers = (window.theirWorkers ??= {});
const answers = (window.theirAnswers ??= {});
answers[ask.number] ??= new Promise((resolve) => {
  const worker = (workers[ask.worker] ??= new Worker('/extra/theirs.js', { type: 'module' }));
  worker.onmessage = ({ data }) => resolve(data);
  worker.onerror = (event) => resolve({ error: `worker: ${event.message ?? 'it could not be loaded'}` });
  worker.postMessage(ask.message);
});
const patience = new Promise((resolve) => setTimeout(resolve, patience_ms, null));
Promise.race([answers[ask.number], patience]).then((answer) => {
  if (answer) delete answers[ask.number];
  done(answer);
});
