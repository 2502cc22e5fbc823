//! The known limits of our engine. A graph that is refused for another reason is a failure.

use crate::{
    case::Case,
    judge::{Failure, Stage},
};

/// A limit, and how its refusals are recognized.
struct Limit {
    /// A short name.
    name: &'static str,
    /// Text in the reason of a refusal.
    says: &'static str,
    /// Which cases may be refused by it.
    of: fn(&Case) -> bool,
}

/// Every limit; the first match counts.
const LIMITS: &[Limit] = &[
    Limit {
        name: "constants beyond 32 bits that are summed, ordered or carried by a loop",
        says: "computes with an integer of more than 32 bits",
        of: |case| case.is_wide,
    },
    Limit {
        name: "64-bit integers beyond 32 bits where two words cannot be had",
        says: "32 bits",
        of: |case| case.is_wide,
    },
];

/// The limit of a refusal.
pub fn of_failure(case: &Case, failure: &Failure) -> Option<&'static str> {
    if failure.stage == Stage::Refuse {
        return Some("the backend does not have an operator");
    }
    let applies = |limit: &&Limit| (limit.of)(case) && failure.reason.contains(limit.says);
    LIMITS.iter().find(applies).map(|limit| limit.name)
}
