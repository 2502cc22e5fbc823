//! What we say no to on purpose. A graph that is refused for another reason is a failure.

use crate::{
    case::Case,
    judge::{Failure, Stage},
};

/// A limit, and how its refusals are told.
struct Limit {
    /// In a few words.
    name: &'static str,
    /// What stands in the reason.
    says: &'static str,
    /// Which cases may be refused so.
    of: fn(&Case) -> bool,
}

/// Every limit; the first that fits counts.
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

/// The limit that a refusal tells of.
pub fn of_failure(case: &Case, failure: &Failure) -> Option<&'static str> {
    if failure.stage == Stage::Refuse {
        return Some("the backend does not have an operator");
    }
    let tells = |limit: &&Limit| (limit.of)(case) && failure.reason.contains(limit.says);
    LIMITS.iter().find(tells).map(|limit| limit.name)
}
