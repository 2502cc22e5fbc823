//! The table of known outcomes that are not right: `MODEL RUNTIME fail|refused: KIND`.

use std::{fmt, fs, path::Path};

use anyhow::Context as _;

use crate::{
    outcome::{Outcome, Status, one_line},
    runtime::{Named as _, Runtime},
};

/// The header above the entries.
const HEAD: &str = "\
# Models of the zoo that are not right on a runtime of ours: MODEL RUNTIME fail|refused: KIND, see docs/zoo.md.
# `cargo xtask zoo --bless` writes this file and keeps the kinds.

";
/// Prefix of a kind that was not examined yet; the run's message comes after it.
const UNKNOWN: &str = "kind unknown";
/// Longest reason in the table.
const REASON_CHARS_MAX: usize = 200;

/// A model that is not right on a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    model: String,
    runtime: Runtime,
    status: Status,
    /// A short description of the failure.
    kind: String,
}

/// All entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    entries: Vec<Entry>,
}

/// A result of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) model: &'a str,
    pub(crate) runtime: Runtime,
    pub(crate) outcome: &'a Outcome,
}

/// How a run differs from the table, in lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    /// Not right and not in the table, or wrong and in the table as refused.
    pub(crate) wrong: Vec<String>,
    /// Right and in the table.
    pub(crate) right: Vec<String>,
    /// Refused and in the table as wrong; entries for no model.
    pub(crate) other: Vec<String>,
}

impl Expected {
    /// The table of a file; an empty one if the file does not exist.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Expected> {
        if !path.exists() {
            return Ok(Expected::default());
        }
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Expected::parse(&text)
    }

    /// Empty lines and those that begin with `#` are ignored.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Expected> {
        let entry = |line: &str| -> Option<Entry> {
            let (place, kind) = line.split_once(": ")?;
            let [model, runtime, status] = *place.split_whitespace().collect::<Vec<_>>() else {
                return None;
            };
            let runtime = Runtime::ALL.iter().copied().find(|known| known.name == runtime)?;
            let status = status.parse().ok().filter(|status| *status != Status::Pass)?;
            let kind = Some(kind.trim().to_owned()).filter(|kind| !kind.is_empty())?;
            Some(Entry { model: model.to_owned(), runtime, status, kind })
        };
        let lines = text.lines().map(str::trim);
        let entries = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
            entry(line).with_context(|| format!("not MODEL RUNTIME fail|refused: KIND: {line}"))
        });
        Ok(Expected { entries: entries.collect::<anyhow::Result<_>>()? })
    }

    fn entry(&self, model: &str, runtime: Runtime) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.model == model && entry.runtime == runtime)
    }

    /// The known kind of a model's failure.
    pub(crate) fn kind(&self, model: &str, runtime: Runtime) -> Option<&str> {
        self.entry(model, runtime).map(|entry| entry.kind.as_str())
    }

    /// Compares with a run; `models` are all existing models.
    pub(crate) fn differences(&self, seen: &[Seen<'_>], models: &[&str]) -> Differences {
        let mut differences = Differences::default();
        for Seen { model, runtime, outcome } in seen {
            let reason = outcome.reason.as_deref().unwrap_or_default();
            let line = || format!("{model} {runtime} {}: {reason}", outcome.status);
            match (self.entry(model, *runtime).map(|entry| entry.status), outcome.status) {
                (None, Status::Pass) => {}
                (Some(status), now) if status == now => {}
                (Some(_), Status::Pass) => differences.right.push(format!("{model} {runtime}")),
                (Some(_), Status::Refused) => differences.other.push(line()),
                (None, _) | (Some(_), Status::Fail) => differences.wrong.push(line()),
            }
        }
        let gone = self.entries.iter().filter(|entry| !models.contains(&entry.model.as_str()));
        differences.other.extend(gone.map(|entry| format!("no model is called {}", entry.model)));
        differences
    }

    /// The table after a run: kinds are kept, and so are entries that the run did not cover, if their model exists.
    pub(crate) fn with(&self, seen: &[Seen<'_>], models: &[&str]) -> Expected {
        let is_seen = |entry: &Entry| {
            seen.iter().any(|seen| seen.model == entry.model && seen.runtime == entry.runtime)
        };
        let kept = self
            .entries
            .iter()
            .filter(|entry| !is_seen(entry) && models.contains(&entry.model.as_str()));
        let mut entries: Vec<Entry> = kept.cloned().collect();
        for Seen { model, runtime, outcome } in seen {
            if outcome.status == Status::Pass {
                continue;
            }
            let known = self.kind(model, *runtime).filter(|kind| !kind.starts_with(UNKNOWN));
            let kind = known.map_or_else(
                || {
                    let reason = outcome.reason.as_deref().unwrap_or_default();
                    format!("{UNKNOWN}: {}", one_line(reason, REASON_CHARS_MAX))
                },
                str::to_owned,
            );
            entries.push(Entry {
                model: (*model).to_owned(),
                runtime: *runtime,
                status: outcome.status,
                kind,
            });
        }
        let place = |runtime: Runtime| Runtime::ALL.iter().position(|known| *known == runtime);
        entries.sort_by(|a, b| {
            (a.model.as_str(), place(a.runtime)).cmp(&(b.model.as_str(), place(b.runtime)))
        });
        Expected { entries }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for Entry { model, runtime, status, kind } in &self.entries {
            writeln!(f, "{model} {runtime} {status}: {kind}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# known\n\na native-cpu fail: near ties in a top k\na chrome-cpu refused: sequences in loops\n";

    fn outcome(status: Status, reason: &str) -> Outcome {
        let broken = Outcome::broken(status, reason);
        if status == Status::Pass { Outcome { reason: None, ..broken } } else { broken }
    }

    fn runtime(name: &str) -> Runtime {
        Runtime::ALL.iter().copied().find(|runtime| runtime.name == name).expect("a runtime")
    }

    #[test]
    fn the_committed_table_can_be_parsed() {
        Expected::parse(include_str!("expected.txt")).expect("a table");
    }

    #[test]
    fn outcomes_that_differ_from_the_table_are_reported() {
        let expected = Expected::parse(TABLE).expect("a table");
        let cases = [
            ("a", "native-cpu", outcome(Status::Pass, "")),
            ("a", "chrome-cpu", outcome(Status::Fail, "broken")),
            ("b", "native-cpu", outcome(Status::Refused, "no")),
            ("b", "chrome-cpu", outcome(Status::Pass, "")),
        ];
        let seen: Vec<Seen<'_>> = cases
            .iter()
            .map(|(model, name, outcome)| Seen { model, runtime: runtime(name), outcome })
            .collect();
        let differences = expected.differences(&seen, &["a", "b"]);
        assert_eq!(differences.wrong, ["a chrome-cpu fail: broken", "b native-cpu refused: no"]);
        assert_eq!(differences.right, ["a native-cpu"]);
        assert_eq!(differences.other, Vec::<String>::new());
        let refused = outcome(Status::Refused, "no");
        let seen = [Seen { model: "a", runtime: runtime("native-cpu"), outcome: &refused }];
        let other = expected.differences(&seen, &["a"]).other;
        assert_eq!(other, ["a native-cpu refused: no"]);
        assert_eq!(expected.differences(&[], &[]).other.len(), 2, "no model is called so");
    }

    #[test]
    fn a_table_is_written_with_the_kinds_that_are_known() {
        let expected = Expected::parse(TABLE).expect("a table");
        let (failed, new) =
            (outcome(Status::Refused, "other words"), outcome(Status::Fail, "new\nwords"));
        let seen = [
            Seen { model: "a", runtime: runtime("native-cpu"), outcome: &failed },
            Seen { model: "b", runtime: runtime("native-cpu"), outcome: &new },
        ];
        let written = expected.with(&seen, &["a", "b"]);
        let text = written.to_string();
        assert_eq!(
            text.strip_prefix(HEAD),
            Some(
                "a native-cpu refused: near ties in a top k\n\
                a chrome-cpu refused: sequences in loops\n\
                b native-cpu fail: kind unknown: new words\n"
            )
        );
        let read = Expected::parse(&text).expect("a table");
        assert_eq!(read, written);
        let later = outcome(Status::Fail, "later");
        let seen = [Seen { model: "b", runtime: runtime("native-cpu"), outcome: &later }];
        let kind = read.with(&seen, &["b"]).kind("b", runtime("native-cpu")).map(str::to_owned);
        assert_eq!(
            kind.as_deref(),
            Some("kind unknown: later"),
            "models that are gone are dropped"
        );
    }

    #[test]
    fn lines_without_a_kind_are_refused() {
        for line in [
            "a native-cpu fail",
            "a native-cpu fail: ",
            "a nowhere fail: b",
            "a native-cpu pass: b",
        ] {
            assert!(Expected::parse(line).is_err(), "{line}");
        }
    }
}
