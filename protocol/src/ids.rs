//! Identifiers, one type each so that they cannot be mixed up.

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    )*};
}

ids! {
    /// One browser process tree with its driver. A replacement gets a new id.
    BrowserId, "b";
    /// One program loaded on one browser and backend.
    PlacementId, "p";
    /// One inference that a client asked for.
    RequestId, "r";
    /// One execution on a placement; it may carry several requests.
    RunId, "x";
    /// Counts the lives of a placement; an answer from an older one is dropped.
    Epoch, "e";
}
