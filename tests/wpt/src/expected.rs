//! The table of cases that do not pass, and why. A run that differs from it in any case fails.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::outcome::{Judged, Outcome};

/// The table as it is committed.
const TABLE: &str = include_str!("../expected.txt");
/// Separator of the parts of a line; names of cases have spaces and commas.
const SEPARATOR: &str = " | ";

/// Cases that do not pass, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected(BTreeMap<String, Outcome>);

impl Expected {
    /// The committed table.
    ///
    /// # Errors
    /// A line that is not an entry.
    pub fn committed() -> anyhow::Result<Expected> {
        Expected::parse(TABLE)
    }

    /// Lines of `OUTCOME | CASE | REASON`. Empty lines and those that begin with `#` are ignored.
    ///
    /// # Errors
    /// A line that is not an entry, has the outcome `passed`, has no reason, or repeats a case.
    pub fn parse(text: &str) -> anyhow::Result<Expected> {
        let mut entries = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (case, outcome) = entry(line).with_context(|| format!("no entry: {line}"))?;
            let other = entries.insert(case.to_owned(), outcome);
            anyhow::ensure!(other.is_none(), "two entries for {case}");
        }
        Ok(Expected(entries))
    }

    /// The differences of a run from the table, a line for each. `is_whole` means that all cases were run, so that
    /// entries without a case are differences too.
    pub fn differences(&self, judged: &[Judged], is_whole: bool) -> Vec<String> {
        let mut left = self.0.clone();
        let mut differences = Vec::new();
        for Judged { case, outcome, reason, .. } in judged {
            let expected = left.remove(case).unwrap_or(Outcome::Passed);
            if expected != *outcome {
                differences.push(format!("{case}: {outcome} and not {expected}: {reason}"));
            }
        }
        if is_whole {
            differences
                .extend(left.keys().map(|case| format!("no case is called {case}: take it out")));
        }
        differences
    }
}

/// The table for these results, with the browser's messages as reasons.
pub fn written_anew(judged: &[Judged]) -> String {
    let left = judged.iter().filter(|judged| judged.outcome != Outcome::Passed);
    left.map(|Judged { case, outcome, reason, .. }| {
        [outcome.to_string(), case.clone(), reason.clone()].join(SEPARATOR) + "\n"
    })
    .collect()
}

fn entry(line: &str) -> Option<(&str, Outcome)> {
    let (outcome, rest) = line.split_once(SEPARATOR)?;
    let (case, reason) = rest.split_once(SEPARATOR)?;
    let outcome: Outcome = outcome.parse().ok()?;
    let is_entry = outcome != Outcome::Passed && !case.is_empty() && !reason.trim().is_empty();
    is_entry.then_some((case, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(case: &str, outcome: Outcome) -> Judged {
        Judged { operator: "x".into(), case: case.into(), outcome, reason: "words".into() }
    }

    #[test]
    fn every_difference_is_reported() {
        let table =
            "# what\n\nfailed | a [1, 2] | it rounds\nunsupported | b | no int8\nfailed | c | so\n";
        let expected = Expected::parse(table).expect("a table");
        let run = [judged("a [1, 2]", Outcome::Failed), judged("b", Outcome::Unsupported)];
        assert_eq!(expected.differences(&run, false), Vec::<String>::new());
        assert_eq!(expected.differences(&run, true), ["no case is called c: take it out"]);
        let run = [
            judged("a [1, 2]", Outcome::Passed),
            judged("b", Outcome::Failed),
            judged("d", Outcome::Failed),
        ];
        assert_eq!(
            expected.differences(&run, false),
            [
                "a [1, 2]: passed and not failed: words",
                "b: failed and not unsupported: words",
                "d: failed and not passed: words",
            ]
        );
    }

    #[test]
    fn a_line_has_an_outcome_a_case_and_a_reason() {
        for line in ["failed | a", "failed | a | ", "passed | a | b", "broken | a | b", "a b c"] {
            assert!(Expected::parse(line).is_err(), "{line}");
        }
        assert!(Expected::parse("failed | a | b\nfailed | a | c").is_err());
        Expected::committed().expect("the committed table");
    }

    #[test]
    fn what_is_written_can_be_read() {
        let run = [judged("a", Outcome::Failed), judged("b", Outcome::Passed)];
        let table = written_anew(&run);
        assert_eq!(table, "failed | a | words\n");
        let expected = Expected::parse(&table).expect("a table");
        assert!(expected.differences(&run, true).is_empty());
    }
}
