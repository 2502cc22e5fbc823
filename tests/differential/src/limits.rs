//! What we say no to on purpose. A graph that is refused for another reason is a failure.

use crate::{
    case::Case,
    judge::{Failure, Stage},
};

/// A limit, and how its refusals are told.
struct Limit {
    /// In a few words.
    name: &'static str,
    /// Texts that all stand in the reason.
    says: &'static [&'static str],
    /// Which cases may be refused so.
    of: fn(&Case) -> bool,
}

/// Every limit.
const LIMITS: &[Limit] = &[
    Limit {
        name: "64-bit integers beyond 32 bits where two words cannot be had",
        says: &["fit 32 bits"],
        of: |case| case.is_wide,
    },
    Limit {
        name: "64-bit integers beyond 32 bits where two words cannot be had",
        says: &["leaves 32 bits"],
        of: |case| case.is_wide,
    },
    Limit {
        name: "64-bit integers beyond 32 bits where two words cannot be had",
        says: &["does not fit the 32 bits that this program computes with"],
        of: |case| case.is_wide,
    },
    Limit {
        name: "constants beyond 32 bits that are summed, ordered or carried by a loop",
        says: &["computes with an integer of more than 32 bits"],
        of: |case| case.is_wide,
    },
    // Told by a run where no usual sizes fit when the program was loaded.
    Limit { name: "the backend does not have an operator", says: &["WebNN has no"], of: |_| true },
    Limit {
        name: "the backend does not have an operator",
        says: &["WebNN has to know"],
        of: |_| true,
    },
];

/// The limit that a refusal tells of.
pub fn of_failure(case: &Case, failure: &Failure) -> Option<&'static str> {
    if failure.stage == Stage::Refuse {
        return Some("the backend does not have an operator");
    }
    let tells = |limit: &&Limit| {
        (limit.of)(case) && limit.says.iter().all(|says| failure.reason.contains(says))
    };
    LIMITS.iter().find(tells).map(|limit| limit.name)
}
