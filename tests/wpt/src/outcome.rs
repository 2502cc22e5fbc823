//! How cases end.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::source::Case;

/// How a case ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// With the expected numbers.
    Passed,
    /// With other numbers, or not at all.
    Failed,
    /// The browser reports that it lacks what the case needs.
    Unsupported,
}

/// A case and how it ended.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// The W3C name of its operator.
    pub operator: String,
    /// The case's name.
    pub case: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The browser's message, or the largest difference.
    pub reason: String,
}

impl Judged {
    /// The page's result for a case.
    pub fn new(case: &Case, outcome: Outcome, reason: String) -> Judged {
        Judged { operator: case.operator.clone(), case: case.name.clone(), outcome, reason }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::Unsupported => "unsupported",
        })
    }
}

impl FromStr for Outcome {
    type Err = ();

    fn from_str(text: &str) -> Result<Outcome, ()> {
        match text {
            "passed" => Ok(Outcome::Passed),
            "failed" => Ok(Outcome::Failed),
            "unsupported" => Ok(Outcome::Unsupported),
            _ => Err(()),
        }
    }
}
