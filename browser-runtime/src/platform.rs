//! The differences between a page and a native process: the clock and a pause.

/// Microseconds since some moment in the past; never goes backwards.
#[cfg(not(target_arch = "wasm32"))]
pub fn now_us() -> u64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    u64::try_from(START.get_or_init(std::time::Instant::now).elapsed().as_micros())
        .unwrap_or(u64::MAX)
}

/// Microseconds since some moment in the past; never goes backwards.
#[cfg(target_arch = "wasm32")]
pub fn now_us() -> u64 {
    use wasm_bindgen::JsCast;
    let global = js_sys::global();
    let performance = match global.dyn_ref::<web_sys::WorkerGlobalScope>() {
        Some(worker) => worker.performance(),
        None => web_sys::window().and_then(|window| window.performance()),
    };
    performance.map_or(0, |performance| (performance.now() * 1000.0) as u64)
}

/// Lets the page's event loop turn, for about `ms` milliseconds.
#[cfg(target_arch = "wasm32")]
pub(crate) async fn pause(ms: i32) {
    use wasm_bindgen::JsCast;
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        let global = js_sys::global();
        let set = js_sys::Reflect::get(&global, &"setTimeout".into())
            .ok()
            .and_then(|set| set.dyn_into::<js_sys::Function>().ok());
        if let Some(set) = set {
            let _ = set.call2(&global, &resolve, &ms.into());
        }
    });
    let _ = wasm_bindgen_futures::JsFuture::from(promise).await;
}

/// How long a load works before it pauses for other work.
const WORK_US: u64 = 4000;

/// When a load, which may take long, last paused.
pub(crate) struct Pace {
    since: u64,
}

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace { since: now_us() }
    }

    /// Lets the event loop turn, if the last pause was some milliseconds ago.
    pub(crate) async fn rest(&mut self) {
        if now_us() - self.since >= WORK_US {
            turn().await;
            self.since = now_us();
        }
    }
}

/// Lets the page's event loop turn once: messages that have arrived are delivered. A timer would wait for 4 ms.
#[cfg(target_arch = "wasm32")]
async fn turn() {
    use wasm_bindgen::JsCast;
    let Ok(channel) = web_sys::MessageChannel::new() else { return pause(0).await };
    let (here, there) = (channel.port1(), channel.port2());
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        here.set_onmessage(Some(resolve.unchecked_ref()));
        // Without the message the promise never resolves.
        if there.post_message(&wasm_bindgen::JsValue::NULL).is_err() {
            let _ = resolve.call0(&wasm_bindgen::JsValue::UNDEFINED);
        }
    });
    let _ = wasm_bindgen_futures::JsFuture::from(promise).await;
    here.close();
}

/// Yields once to whatever polls this.
#[cfg(not(target_arch = "wasm32"))]
async fn turn() {
    let mut polled = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut polled, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// Blocks this thread for `ms` milliseconds, as a computation would.
#[cfg(not(target_arch = "wasm32"))]
#[expect(
    clippy::disallowed_methods,
    reason = "a slow page is played, and nothing else is to happen meanwhile"
)]
pub(crate) async fn pause(ms: i32) {
    std::thread::sleep(std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
}

/// `navigator.userAgent`, or the native process's own name.
#[cfg(target_arch = "wasm32")]
pub(crate) fn user_agent() -> String {
    let navigator = js_sys::Reflect::get(&js_sys::global(), &"navigator".into()).ok();
    let agent =
        navigator.and_then(|navigator| js_sys::Reflect::get(&navigator, &"userAgent".into()).ok());
    agent.and_then(|agent| agent.as_string()).unwrap_or_default()
}
