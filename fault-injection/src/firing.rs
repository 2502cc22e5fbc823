//! Reports that a fault has happened.

use std::time::Instant;

use tokio::sync::mpsc;

/// A fault that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firing {
    /// Index of the occasion in its schedule.
    pub moment: usize,
    /// When it happened.
    pub at: Instant,
}

/// Most firings that wait to be counted.
const FIRINGS_MAX: usize = 1024;

/// Reports the firings of one occasion.
#[derive(Clone, Debug)]
pub struct Bell {
    moment: usize,
    firings: mpsc::Sender<Firing>,
}

impl Bell {
    /// A channel of firings, for [`Bell::new`].
    pub fn channel() -> (mpsc::Sender<Firing>, mpsc::Receiver<Firing>) {
        mpsc::channel(FIRINGS_MAX)
    }

    /// The bell of an occasion.
    pub fn new(moment: usize, firings: mpsc::Sender<Firing>) -> Bell {
        Bell { moment, firings }
    }

    /// The occasion.
    pub fn moment(&self) -> usize {
        self.moment
    }

    /// The bell of another occasion of the same channel.
    pub fn of(&self, moment: usize) -> Bell {
        Bell { moment, firings: self.firings.clone() }
    }

    /// Reports that the fault happens now.
    pub async fn ring(&self) {
        self.ring_at(Instant::now()).await;
    }

    /// Reports that the fault happened at this time.
    pub async fn ring_at(&self, at: Instant) {
        let firing = Firing { moment: self.moment, at };
        // The receiver is dropped once the campaign's report is made.
        let _ = self.firings.send(firing).await;
    }
}
