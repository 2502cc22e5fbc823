//! The results of a run, as text and as JSON.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::outcome::{Judged, Outcome};

/// Counts of outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All of them.
    pub cases: usize,
    /// With the expected numbers.
    pub passed: usize,
    /// Not right.
    pub failed: usize,
    /// The browser lacks something.
    pub unsupported: usize,
}

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The browser and its version.
    pub browser: String,
    /// Of all cases.
    pub total: Counts,
    /// By the W3C name of the operator.
    pub operators: BTreeMap<String, Counts>,
    /// Cases that do not pass.
    pub left: Vec<Judged>,
}

impl Counts {
    fn count(&mut self, outcome: Outcome) {
        self.cases += 1;
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Unsupported => self.unsupported += 1,
        }
    }
}

impl Report {
    /// Counts the results of a browser.
    pub fn new(browser: String, judged: &[Judged]) -> Report {
        let mut total = Counts::default();
        let mut operators: BTreeMap<String, Counts> = BTreeMap::new();
        for Judged { operator, outcome, .. } in judged {
            total.count(*outcome);
            operators.entry(operator.clone()).or_default().count(*outcome);
        }
        let left = judged.iter().filter(|judged| judged.outcome != Outcome::Passed).cloned();
        Report { browser, total, operators, left: left.collect() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { browser, total, operators, left } = self;
        for Judged { case, outcome, reason, .. } in left {
            writeln!(f, "{outcome}: {case}: {reason}")?;
        }
        writeln!(
            f,
            "{:24} {:>6} {:>6} {:>6} {:>11}",
            browser, "cases", "passed", "failed", "unsupported"
        )?;
        let named = operators.iter().map(|(name, counts)| (name.as_str(), counts));
        for (name, counts) in named.chain([("all", total)]) {
            let Counts { cases, passed, failed, unsupported } = counts;
            writeln!(f, "{name:24} {cases:>6} {passed:>6} {failed:>6} {unsupported:>11}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_by_operator() {
        let judged = |operator: &str, outcome| Judged {
            operator: operator.into(),
            case: "a case".into(),
            outcome,
            reason: "words".into(),
        };
        let run = [
            judged("add", Outcome::Passed),
            judged("add", Outcome::Unsupported),
            judged("sub", Outcome::Failed),
        ];
        let report = Report::new("browser 1".into(), &run);
        assert_eq!(report.total, Counts { cases: 3, passed: 1, failed: 1, unsupported: 1 });
        assert_eq!(report.operators["add"].cases, 2);
        let text = report.to_string();
        assert!(text.contains("failed: a case: words") && text.ends_with('\n'), "{text}");
    }
}
