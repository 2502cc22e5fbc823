//! Faults that are injected into a browser, to test that they are detected.

use flotilla_protocol::Link;
use serde::{Deserialize, Serialize};

use crate::Kind;

/// A fault to inject. In a real browser it really happens; a simulated one imitates it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The browser's process ends.
    Exit,
    /// The page crashes, and with it both links; the browser's process goes on.
    Crash,
    /// The page's main thread hangs: no heartbeats. In a simulated browser the worker stops too.
    Hang,
    /// The worker hangs, and the heartbeats go on.
    Silence,
    /// The webgpu device is lost without having been closed.
    LoseDevice,
    /// A link closes.
    DropLink(Link),
    /// Runs take this many times as long; 1 ends that.
    SlowDown(f64),
    /// Results are wrong, though finite and of the right shape; `false` ends that.
    WrongAnswers(bool),
    /// The page holds this many MB more. A simulated browser only reports it.
    Memory(u32),
}

/// Why a fault did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum FaultError {
    #[error("too many commands are queued, or the browser has ended")]
    NotTaken,
    #[error("the browser has no page to apply the fault to")]
    NoPage,
    #[error("the page has nothing that this fault applies to")]
    NothingThere,
    #[error("the driver reports: {words}")]
    Driver { words: String },
}

/// How a fault is injected into a real browser.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Means {
    /// Its process is killed.
    Kill,
    /// The processes under it whose command line ends with this word are killed.
    KillUnder(&'static str),
    /// Its page navigates to this address.
    Address(&'static str),
    /// `flotillaFault(name, amount)` is called in its page; it is defined in `web/runner/runner.js`.
    Script(&'static str, f64),
}

impl Fault {
    /// How this fault is injected into a real browser of this kind.
    pub(crate) fn means(self, kind: Kind) -> Means {
        match self {
            Fault::Exit => Means::Kill,
            Fault::Crash => match kind {
                Kind::Chrome | Kind::Edge => Means::Address("chrome://crash"),
                // WebDriver may not open `about:crashcontent`. Under geckodriver the whole browser ends with a page.
                Kind::Firefox => Means::KillUnder("tab"),
            },
            Fault::Hang => Means::Script("hang", 0.0),
            Fault::Silence => Means::Script("silence", 0.0),
            Fault::LoseDevice => Means::Script("lose_device", 0.0),
            Fault::DropLink(Link::Control) => Means::Script("drop_control", 0.0),
            Fault::DropLink(Link::Data) => Means::Script("drop_data", 0.0),
            Fault::SlowDown(factor) => Means::Script("slow_down", factor),
            Fault::WrongAnswers(wrongly) => {
                Means::Script("wrong_answers", f64::from(u8::from(wrongly)))
            }
            Fault::Memory(mb) => Means::Script("memory", f64::from(mb)),
        }
    }
}
