//! Events and actions, as text or as their digest.

use std::fmt::{self, Debug, Write as _};

use flotilla_fleet::{Action, Event, Instant};

/// FNV-1a's 64-bit prime.
const PRIME: u64 = 0x0100_0000_01b3;

/// Every event that the core took and every action that it ordered, in order.
///
/// The text of a long simulation would not fit into memory, so only its digest (after FNV-1a, 64 bits) is always kept.
#[derive(Clone, Debug)]
pub struct Trace {
    digest: Digest,
    text: Option<Vec<String>>,
}

#[derive(Clone, Debug)]
struct Digest(u64);

impl Digest {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(PRIME).rotate_left(29);
    }

    fn debug(&mut self, value: &impl Debug) {
        write!(self, "{value:?}").expect("a digest takes every text");
    }
}

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        Ok(())
    }
}

impl Trace {
    pub(crate) fn new(keep_text: bool) -> Trace {
        Trace { digest: Digest(0xcbf2_9ce4_8422_2325), text: keep_text.then(Vec::new) }
    }

    /// The digest of all events and actions.
    pub fn digest(&self) -> u64 {
        self.digest.0
    }

    /// The lines; empty unless the simulation keeps its text.
    pub fn text(&self) -> &[String] {
        self.text.as_deref().unwrap_or_default()
    }

    pub(crate) fn event(&mut self, now: Instant, event: &Event) {
        self.digest.mix(now.0.as_nanos() as u64);
        match event {
            // Heartbeats are most events, and formatting them would take most of the time.
            Event::Heartbeat { browser } => self.digest.mix(browser.0),
            event => self.digest.debug(event),
        }
        if let Some(text) = &mut self.text {
            text.push(format!("{:>12.6} <- {event:?}", now.0.as_secs_f64()));
        }
    }

    pub(crate) fn action(&mut self, now: Instant, action: &Action) {
        self.digest.debug(action);
        if let Some(text) = &mut self.text {
            text.push(format!("{:>12.6} -> {action:?}", now.0.as_secs_f64()));
        }
    }
}
