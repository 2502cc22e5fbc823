//! The differences between a page and a native process: the clock and a pause.

use std::{cell::Cell, rc::Rc};

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

/// How long a load works before it pauses for other work, if no run came recently.
const QUIET_WORK_US: u64 = 4000;

/// How long it works before it pauses while other placements are in use.
const BUSY_WORK_US: u64 = 1000;

/// How long placements count as in use after their last run.
const RECENT_US: u64 = 2_000_000;

/// When something last ran, which decides how often loads pause. Copies share it.
#[derive(Clone, Default)]
pub(crate) struct Traffic(Rc<Cell<Option<u64>>>);

impl Traffic {
    /// Something begins or ends to run.
    pub(crate) fn note(&self) {
        self.0.set(Some(now_us()));
    }

    /// Whether something ran recently.
    pub(crate) fn is_recent(&self) -> bool {
        self.0.get().is_some_and(|last| now_us() - last < RECENT_US)
    }
}

/// When a load, which may take long, last paused.
pub(crate) struct Pace {
    traffic: Traffic,
    since: u64,
    quiet_work_us: u64,
    #[cfg(target_arch = "wasm32")]
    echo: Option<Echo>,
}

impl Pace {
    pub(crate) fn new(traffic: Traffic) -> Pace {
        Pace {
            traffic,
            since: now_us(),
            quiet_work_us: QUIET_WORK_US,
            #[cfg(target_arch = "wasm32")]
            echo: Echo::new(),
        }
    }

    /// Pauses wherever it may.
    #[cfg(test)]
    pub(crate) fn eager() -> Pace {
        Pace { quiet_work_us: 0, ..Pace::new(Traffic::default()) }
    }

    /// Lets the page's event loop turn once: messages that have arrived are delivered. A timer would wait for 4 ms.
    #[cfg(target_arch = "wasm32")]
    async fn turn(&self) {
        match &self.echo {
            Some(echo) => echo.round_trip().await,
            None => pause(0).await,
        }
    }

    /// Yields once to whatever polls this.
    #[cfg(not(target_arch = "wasm32"))]
    async fn turn(&self) {
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

    /// How long the load works before it pauses.
    fn work_us(&self) -> u64 {
        if self.is_busy() { self.quiet_work_us.min(BUSY_WORK_US) } else { self.quiet_work_us }
    }

    /// Whether other placements are in use.
    pub(crate) fn is_busy(&self) -> bool {
        self.traffic.is_recent()
    }

    /// Lets the event loop turn, if the last pause was some milliseconds ago.
    pub(crate) async fn rest(&mut self) {
        if now_us() - self.since >= self.work_us() {
            self.turn().await;
            self.since = now_us();
        }
    }
}

/// Two ports through which a thread sends itself a message, which arrives after everything that has arrived before.
#[cfg(target_arch = "wasm32")]
struct Echo {
    here: web_sys::MessagePort,
    there: web_sys::MessagePort,
}

#[cfg(target_arch = "wasm32")]
impl Echo {
    fn new() -> Option<Echo> {
        let channel = web_sys::MessageChannel::new().ok()?;
        Some(Echo { here: channel.port1(), there: channel.port2() })
    }

    async fn round_trip(&self) {
        use wasm_bindgen::JsCast;
        let promise = js_sys::Promise::new(&mut |resolve, _| {
            self.here.set_onmessage(Some(resolve.unchecked_ref()));
            // Without the message the promise never resolves.
            if self.there.post_message(&wasm_bindgen::JsValue::NULL).is_err() {
                let _ = resolve.call0(&wasm_bindgen::JsValue::UNDEFINED);
            }
        });
        let _ = wasm_bindgen_futures::JsFuture::from(promise).await;
    }
}

#[cfg(target_arch = "wasm32")]
impl Drop for Echo {
    fn drop(&mut self) {
        self.here.close();
    }
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

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    /// What a future gives, and how often it paused.
    pub(crate) fn counted<T>(future: impl Future<Output = T>) -> (T, usize) {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        let mut pauses = 0;
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(value) => return (value, pauses),
                Poll::Pending => pauses += 1,
            }
        }
    }

    #[test]
    fn loads_pause_more_often_beside_runs() {
        let traffic = Traffic::default();
        let pace = Pace::new(traffic.clone());
        assert_eq!((pace.is_busy(), pace.work_us()), (false, QUIET_WORK_US));
        traffic.note();
        assert_eq!((pace.is_busy(), pace.work_us()), (true, BUSY_WORK_US));
    }

    #[test]
    fn a_pause_yields_once() {
        let mut pace = Pace::eager();
        let three = async {
            for _ in 0..3 {
                pace.rest().await;
            }
        };
        assert_eq!(counted(three), ((), 3));
    }
}
