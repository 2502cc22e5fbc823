//! What a page and a native process do differently: the clock and a pause.

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

/// Blocks this thread for `ms` milliseconds, as a computation would.
#[cfg(not(target_arch = "wasm32"))]
#[expect(
    clippy::disallowed_methods,
    reason = "a slow page is played, and nothing else is to happen meanwhile"
)]
pub(crate) async fn pause(ms: i32) {
    std::thread::sleep(std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
}

/// `navigator.userAgent`, or the native process's own words.
#[cfg(target_arch = "wasm32")]
pub(crate) fn user_agent() -> String {
    let navigator = js_sys::Reflect::get(&js_sys::global(), &"navigator".into()).ok();
    let agent =
        navigator.and_then(|navigator| js_sys::Reflect::get(&navigator, &"userAgent".into()).ok());
    agent.and_then(|agent| agent.as_string()).unwrap_or_default()
}
