//! Identifiers, one type each so that they cannot be mixed up.

use serde::{Deserialize, Serialize};

/// Bits of an id that number things within one life of a daemon: enough for ten thousand per second over three years. The bits
/// above are the life's incarnation.
const NUMBER_BITS: u32 = 40;

/// One life of a daemon. Ids begin with it, so that no two lives of daemons with one data folder share an id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(u32);

impl Incarnation {
    /// The highest one. Ids of the next one are those of [probes' placements](crate::PlacementId).
    pub const MAX: Incarnation = Incarnation((1 << (u64::BITS - NUMBER_BITS)) - 2);

    /// `None` above [`Incarnation::MAX`].
    pub fn new(number: u32) -> Option<Incarnation> {
        Some(Incarnation(number)).filter(|incarnation| *incarnation <= Incarnation::MAX)
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The first id of this life.
    pub fn first_id(self) -> u64 {
        u64::from(self.0) << NUMBER_BITS
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u64);

        /// The incarnation, unless it is 0, and the number in it: `b3`, `b2.3`.
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let number = self.0 & ((1 << NUMBER_BITS) - 1);
                match self.0 >> NUMBER_BITS {
                    0 => write!(f, concat!($prefix, "{}"), number),
                    incarnation => write!(f, concat!($prefix, "{}.{}"), incarnation, number),
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<$name, IdError> {
                parsed($prefix, text).map($name).ok_or_else(|| IdError { text: text.to_owned() })
            }
        }
    )*};
}

/// A text is not an id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id of this kind")]
pub struct IdError {
    /// The text.
    pub text: String,
}

/// The number of an id that is written as [`std::fmt::Display`] writes it.
fn parsed(prefix: &str, text: &str) -> Option<u64> {
    let rest = text.strip_prefix(prefix)?;
    let (incarnation, number) = rest.split_once('.').unwrap_or(("0", rest));
    let number: u64 = number.parse().ok().filter(|number| *number < 1 << NUMBER_BITS)?;
    let incarnation: u64 = incarnation.parse().ok()?;
    (incarnation < 1 << (u64::BITS - NUMBER_BITS)).then_some((incarnation << NUMBER_BITS) | number)
}

ids! {
    /// One browser process tree with its driver. A replacement gets a new id.
    BrowserId, "b";
    /// One program loaded on one browser and backend. The highest numbers are those of probes.
    PlacementId, "p";
    /// One inference that a client asked for.
    RequestId, "r";
    /// One execution on a placement; it may carry several requests.
    RunId, "x";
    /// Counts the lives of a placement; an answer from an older one is dropped.
    Epoch, "e";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_two_lives_differ() {
        let first = |number| Incarnation::new(number).expect("not too high").first_id();
        assert_eq!(BrowserId(first(0) + 3).to_string(), "b3");
        assert_eq!(BrowserId(first(2) + 3).to_string(), "b2.3");
        for id in [0, 1, first(1), first(7) + 5, u64::MAX].map(RunId) {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in ["", "b", "3", "x3", "b1.", "b1.2.3", "b99999999.1", "b1.1099511627776"] {
            assert!(text.parse::<BrowserId>().is_err(), "{text}");
        }
        assert!(first(1) + 1_000_000_000_000 < first(2));
        assert!(Incarnation::MAX.first_id() + (1 << NUMBER_BITS) <= u64::MAX - 7);
        assert_eq!(Incarnation::new(Incarnation::MAX.number() + 1), None);
    }
}
