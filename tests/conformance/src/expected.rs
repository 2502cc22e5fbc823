//! The table of cases that are known to fail, and why. A failure that is not in the table fails the run, and so does a case that
//! is in the table and does not fail.

use std::fmt::Write as _;

use regex::Regex;

use crate::{
    outcome::{Outcome, RuntimeName},
    suite::Judged,
};

/// The table as it is committed.
const TABLE: &str = include_str!("../expected.txt");

/// Cases that fail, where and why.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where they fail.
    pub runtimes: Vec<RuntimeName>,
    /// Matches their whole names.
    pub cases: Regex,
    /// Why.
    pub reason: String,
    /// The pattern as written in the table.
    pattern: String,
}

/// All entries.
#[derive(Clone, Debug)]
pub struct Expected {
    entries: Vec<Entry>,
}

/// How results differ from the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surprises {
    /// Cases that fail and are not in the table.
    pub failures: Vec<String>,
    /// Cases that are in the table and do not fail.
    pub passes: Vec<String>,
    /// Entries that match no case.
    pub unused: Vec<String>,
}

impl Surprises {
    /// Whether the results are as in the table.
    pub fn is_empty(&self) -> bool {
        self.failures.is_empty() && self.passes.is_empty() && self.unused.is_empty()
    }
}

impl Expected {
    /// The committed table.
    ///
    /// # Errors
    /// A line that is not an entry.
    pub fn committed() -> anyhow::Result<Expected> {
        Expected::parse(TABLE)
    }

    /// Lines of `RUNTIMES CASES REASON`: runtimes separated by commas or `all`, a regular expression that matches whole names,
    /// and a text. Empty lines and those that begin with `#` are ignored.
    ///
    /// # Errors
    /// A line that is not an entry.
    pub fn parse(text: &str) -> anyhow::Result<Expected> {
        let entry = |line: &str| -> Option<Entry> {
            let (runtimes, rest) = line.split_once(char::is_whitespace)?;
            let (pattern, reason) = rest.trim_start().split_once(char::is_whitespace)?;
            let runtimes = match runtimes {
                "all" => RuntimeName::ALL.to_vec(),
                names => names.split(',').map(str::parse).collect::<Result<_, _>>().ok()?,
            };
            let cases = Regex::new(&format!("^(?:{pattern})$")).ok()?;
            let reason = Some(reason.trim()).filter(|reason| !reason.is_empty())?.to_owned();
            Some(Entry { runtimes, cases, reason, pattern: pattern.to_owned() })
        };
        let lines = text.lines().map(str::trim);
        let entries = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                entry(line).ok_or_else(|| {
                    anyhow::anyhow!(
                        "not RUNTIMES CASES REASON in the table of expected failures: {line}"
                    )
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Expected { entries })
    }

    /// Why a case is expected to fail.
    pub fn reason(&self, runtime: RuntimeName, case: &str) -> Option<&str> {
        let entry = self
            .entries
            .iter()
            .find(|entry| entry.runtimes.contains(&runtime) && entry.cases.is_match(case))?;
        Some(&entry.reason)
    }

    /// Compares with results; `whole` means that these are all cases, so that every entry must match one of them.
    pub fn surprises(&self, runtime: RuntimeName, judged: &[Judged], whole: bool) -> Surprises {
        let mut surprises = Surprises::default();
        for Judged { facts, verdict } in judged {
            let expected = self.reason(runtime, &facts.name).is_some();
            match &verdict.outcome {
                Outcome::Failed(failure) if !expected => surprises
                    .failures
                    .push(format!("{}: {}: {}", facts.name, failure.stage, failure.reason)),
                Outcome::Passed | Outcome::NoKernel if expected => {
                    surprises.passes.push(facts.name.clone());
                }
                Outcome::Failed(_) | Outcome::Passed | Outcome::NoKernel | Outcome::Refused(_) => {}
            }
        }
        if whole {
            let is_unused = |entry: &&Entry| {
                entry.runtimes.contains(&runtime)
                    && !judged.iter().any(|one| entry.cases.is_match(&one.facts.name))
            };
            surprises.unused =
                self.entries.iter().filter(is_unused).map(|entry| entry.pattern.clone()).collect();
        }
        surprises
    }

    /// A table of these results, by reason: reasons of the committed table are kept, others come from the run.
    pub fn written_anew(&self, results: &[(RuntimeName, Vec<Judged>)]) -> String {
        let mut failures: Vec<(String, String, Vec<RuntimeName>)> = Vec::new();
        for (runtime, judged) in results {
            for Judged { facts, verdict } in judged {
                let Outcome::Failed(failure) = &verdict.outcome else { continue };
                let reason = self.reason(*runtime, &facts.name).map_or_else(
                    || format!("{}: {}", failure.stage, failure.reason),
                    str::to_owned,
                );
                match failures
                    .iter_mut()
                    .find(|(known, case, _)| *known == reason && *case == facts.name)
                {
                    Some((.., runtimes)) => runtimes.push(*runtime),
                    None => failures.push((reason, facts.name.clone(), vec![*runtime])),
                }
            }
        }
        failures.sort();
        let mut text = String::new();
        for (reason, case, runtimes) in failures {
            let names = if runtimes.len() == RuntimeName::ALL.len() {
                "all".to_owned()
            } else {
                runtimes.iter().map(|runtime| runtime.name()).collect::<Vec<_>>().join(",")
            };
            let _ = writeln!(text, "{names} {} {reason}", regex::escape(&case));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        case::{Facts, Kind},
        outcome::{Failure, Stage},
    };

    fn judged(name: &str, outcome: Outcome) -> Judged {
        let facts = Facts { kind: Kind::Node, ..Facts::of_file(name, Vec::new()) };
        Judged { facts, verdict: outcome.into() }
    }

    fn failed() -> Outcome {
        Outcome::Failed(Failure::new(Stage::Run, "broken"))
    }

    #[test]
    fn the_committed_table_can_be_parsed() {
        Expected::committed().expect("a table");
    }

    #[test]
    fn outcomes_that_differ_from_the_table_are_reported() {
        let table =
            "# known\nall test_a.* not yet\nchrome-webgpu,firefox-webgpu test_b no such type\n";
        let expected = Expected::parse(table).expect("a table");
        let results = [
            judged("test_a1", failed()),
            judged("test_a2", Outcome::Passed),
            judged("test_b", failed()),
            judged("test_c", Outcome::Passed),
        ];
        assert_eq!(
            expected.surprises(RuntimeName::NativeCpu, &results, true),
            Surprises {
                failures: vec!["test_b: run: broken".to_owned()],
                passes: vec!["test_a2".to_owned()],
                unused: vec![],
            }
        );
        let chrome = expected.surprises(RuntimeName::ChromeWebgpu, &results, true);
        assert_eq!((chrome.failures, chrome.passes.len()), (vec![], 1));
        let none = expected.surprises(RuntimeName::ChromeWebgpu, &[], true);
        assert_eq!(none.unused, ["test_a.*", "test_b"]);
        assert!(expected.surprises(RuntimeName::ChromeWebgpu, &[], false).is_empty());
    }

    #[test]
    fn a_case_in_which_no_kernel_runs_is_no_failure() {
        let expected = Expected::parse("all test_a not yet").expect("a table");
        let results = [judged("test_a", Outcome::NoKernel)];
        assert_eq!(expected.surprises(RuntimeName::ChromeCpu, &results, true).passes, ["test_a"]);
    }

    #[test]
    fn a_table_is_written_anew_with_the_reasons_that_are_known() {
        let expected = Expected::parse("all test_a.* not yet").expect("a table");
        let results = [
            (RuntimeName::NativeCpu, vec![judged("test_a1", failed()), judged("test_b", failed())]),
            (RuntimeName::ChromeCpu, vec![judged("test_a1", failed())]),
        ];
        let text = expected.written_anew(&results);
        assert_eq!(text, "native-cpu,chrome-cpu test_a1 not yet\nnative-cpu test_b run: broken\n");
        Expected::parse(&text).expect("a table");
    }

    #[test]
    fn lines_without_a_reason_are_refused() {
        for line in ["all test_a", "nowhere test_a why", "all test_( why", "all"] {
            assert!(Expected::parse(line).is_err(), "{line}");
        }
    }
}
