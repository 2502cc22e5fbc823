//! The fleet simulator: the real core in virtual time, with seeded faults and load, and invariants after every step.

mod random;

pub use self::random::Random;
