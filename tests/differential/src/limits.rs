//! What our importer says no to on purpose. A graph that is refused for another reason is a failure.

/// A limit, and how its refusals are told.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// In a few words.
    pub name: &'static str,
    /// Texts that all stand in the reason.
    says: &'static [&'static str],
}

/// Every limit.
pub const LIMITS: &[Limit] = &[];

/// The limit that a refusal tells of.
pub fn of_reason(reason: &str) -> Option<&'static str> {
    LIMITS
        .iter()
        .find(|limit| limit.says.iter().all(|says| reason.contains(says)))
        .map(|limit| limit.name)
}
