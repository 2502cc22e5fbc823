//! Names of what the fleet decides about, and time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time since the fleet was made. The core reads no clock: time comes in with every event.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Instant(pub Duration);

impl Instant {
    /// This much later.
    pub fn after(self, delay: Duration) -> Instant {
        Instant(self.0.saturating_add(delay))
    }

    /// How long ago `earlier` was; zero if it was not.
    pub fn since(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A model that the daemon has imported; the core knows it by number only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelId(pub u32);

/// Index of a slot, which stands for one desired browser: first those of [`crate::Config::slots`], then those that were
/// added. Browsers come and go, slots stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotId(pub u32);

/// A client's hold on a browser that it has for itself, or its wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaseId(pub u64);
