// Runs the cases one after the other and reports the outcome of each.

import init, { run } from "./wpt.js";

async function report(message) {
  await fetch("tell", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(message),
  });
}

function broken(error) {
  return report({ tell: "broken", reason: String(error?.stack ?? error) });
}

// A panic in wasm is an uncaught error: the promise of its case never settles, so it is reported here.
addEventListener("error", (event) => broken(event.error ?? event.message));
addEventListener("unhandledrejection", (event) => broken(event.reason));

await init({ module_or_path: new URL("wpt_bg.wasm", import.meta.url) });
const response = await fetch("cases.json");
for (const [index, one] of (await response.json()).entries()) {
  const outcome = JSON.parse(await run(JSON.stringify(one)));
  await report({ tell: "outcome", index, ...outcome });
}
