//! Runs work that may panic or hang in a thread that can be abandoned.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

/// Name of the threads, by which their panics are kept from stderr: they are reported as outcomes.
const THREAD: &str = "guarded case";
/// Code without optimization needs a large stack for graphs that are walked recursively.
const STACK_BYTES: usize = 64 << 20;

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It did not end in time; its thread is abandoned.
    TimedOut(Duration),
    /// It panicked with this message.
    Panicked(String),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::TimedOut(limit) => write!(f, "it was not done within {limit:?}"),
            Broken::Panicked(words) => write!(f, "it panicked: {words}"),
        }
    }
}

type Work<I, O> = dyn FnMut(I) -> O;
/// The channel of a thread's inputs, and the channel of its outputs or panic messages.
type Ends<I, O> = (mpsc::SyncSender<I>, mpsc::Receiver<Result<O, String>>);

/// Calls of one kind, each within a time limit.
pub struct Guard<I, O> {
    make: Arc<dyn Fn() -> Box<Work<I, O>> + Send + Sync>,
    limit: Duration,
    thread: Option<Ends<I, O>>,
}

impl<I: Send + 'static, O: Send + 'static> Guard<I, O> {
    /// `make` is called in the thread, and again after each failure: a value that panicked or hung is not
    /// used any more.
    pub fn new(
        limit: Duration,
        make: impl Fn() -> Box<Work<I, O>> + Send + Sync + 'static,
    ) -> Guard<I, O> {
        Guard { make: Arc::new(make), limit, thread: None }
    }

    /// Does the work.
    ///
    /// # Errors
    /// It panicked or took too long.
    pub fn call(&mut self, input: I) -> Result<O, Broken> {
        let (inputs, outputs) = self.thread.take().unwrap_or_else(|| start(self.make.clone()));
        if inputs.send(input).is_err() {
            return Err(Broken::Panicked("its thread has ended".to_owned()));
        }
        match outputs.recv_timeout(self.limit) {
            Ok(Ok(output)) => {
                self.thread = Some((inputs, outputs));
                Ok(output)
            }
            Ok(Err(words)) => Err(Broken::Panicked(words)),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(Broken::TimedOut(self.limit)),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(Broken::Panicked("its thread ended without a word".to_owned()))
            }
        }
    }
}

/// Keeps panics of guarded threads from stderr.
pub fn quiet_panics() {
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if thread::current().name() != Some(THREAD) {
            earlier(panic);
        }
    }));
}

fn start<I: Send + 'static, O: Send + 'static>(
    make: Arc<dyn Fn() -> Box<Work<I, O>> + Send + Sync>,
) -> Ends<I, O> {
    let (inputs, received) = mpsc::sync_channel::<I>(1);
    let (sender, outputs) = mpsc::sync_channel(1);
    let body = move || {
        let mut work = None;
        for input in received {
            let call = || work.get_or_insert_with(|| make())(input);
            let result = catch_unwind(AssertUnwindSafe(call)).map_err(words);
            // A value that panicked may not be usable, not even to be dropped.
            let ends = result.is_err();
            if sender.send(result).is_err() || ends {
                std::mem::forget(work);
                return;
            }
        }
    };
    // If the thread cannot be started, the channel has no holder.
    let _ = thread::Builder::new().name(THREAD.to_owned()).stack_size(STACK_BYTES).spawn(body);
    (inputs, outputs)
}

fn words(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(words) => *words,
        Err(panic) => {
            panic.downcast_ref::<&str>().map_or("without words", |&words| words).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(limit: Duration) -> Guard<&'static str, i32> {
        Guard::new(limit, || {
            let mut calls = 0;
            Box::new(move |what| {
                calls += 1;
                match what {
                    "panic" => panic!("on purpose"),
                    "hang" => loop {
                        thread::park();
                    },
                    _ => calls,
                }
            })
        })
    }

    #[test]
    fn a_panic_is_reported_and_the_next_call_works() {
        let mut guard = guard(Duration::from_secs(60));
        assert_eq!(guard.call("count"), Ok(1));
        assert_eq!(guard.call("count"), Ok(2));
        assert_eq!(guard.call("panic"), Err(Broken::Panicked("on purpose".to_owned())));
        assert_eq!(guard.call("count"), Ok(1), "it was made anew");
    }

    #[test]
    fn a_hang_is_reported_and_left_behind() {
        let limit = Duration::from_millis(50);
        assert_eq!(guard(limit).call("hang"), Err(Broken::TimedOut(limit)));
    }
}
