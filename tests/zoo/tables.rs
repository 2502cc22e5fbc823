//! The tables of the README and of `docs/zoo.md`, and the counts that a run prints.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use anyhow::{Context as _, ensure};

use crate::{
    expected::Expected,
    outcome::{Outcome, Status, one_line},
    results::Stored,
    runtime::{Named as _, Provider, Runtime},
};

/// Markers around the tables.
const BEGIN: &str = "<!-- zoo -->\n";
const END: &str = "<!-- /zoo -->";
/// Longest reason in a table.
const REASON_CHARS_MAX: usize = 240;

/// Everything that is in the tables.
#[derive(Clone, Debug)]
pub(crate) struct Zoo<'a> {
    /// By the model's name.
    pub(crate) stored: &'a [Stored],
    pub(crate) ours: &'a [Runtime],
    pub(crate) theirs: &'a [Provider],
    pub(crate) expected: &'a Expected,
    /// The version of onnxruntime-web.
    pub(crate) rival: String,
}

/// Models, each with names of runtimes.
type Affected<'a> = Vec<(&'a str, Vec<String>)>;

/// Right outcomes, and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    right: usize,
    refused: usize,
    of: usize,
}

impl Share {
    fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Share {
        outcomes.fold(Share::default(), |share, outcome| Share {
            right: share.right + usize::from(outcome.status == Status::Pass),
            refused: share.refused + usize::from(outcome.status == Status::Refused),
            of: share.of + 1,
        })
    }

    /// Such as `46/47`.
    fn cell(self) -> String {
        if self.of == 0 { "-".to_owned() } else { format!("{}/{}", self.right, self.of) }
    }
}

impl Zoo<'_> {
    /// The title of each column, and its name in results.
    fn columns(&self) -> Vec<(String, &'static str)> {
        let ours = self.ours.iter().map(|runtime| (runtime.name.to_owned(), runtime.name));
        let theirs = self.theirs.iter().map(|provider| (provider.key().to_owned(), provider.key()));
        // One hyphen less, so that a narrow column can break the title.
        let theirs = theirs.map(|(title, key)| (title.replacen("-web-", "-web ", 1), key));
        ours.chain(theirs).collect()
    }

    fn share(&self, key: &str, group: Option<&str>) -> Share {
        let is_in = |one: &&Stored| group.is_none_or(|group| one.group == group);
        Share::of(self.stored.iter().filter(is_in).filter_map(|one| one.outcome(key)))
    }

    fn is_right(&self, one: &Stored, key: &str) -> Option<bool> {
        one.outcome(key).map(|outcome| outcome.status == Status::Pass)
    }

    /// The README's table: how many files of each group are right on each runtime, and a summary.
    pub(crate) fn short(&self) -> String {
        let columns = self.columns();
        let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
        for one in self.stored {
            *groups.entry(one.group.as_str()).or_default() += 1;
        }
        let titles = columns.iter().map(|(title, _)| title.clone());
        let mut text = head(["group".to_owned(), "files".to_owned()].into_iter().chain(titles));
        let rows = groups.iter().map(|(&group, &files)| (group, Some(group), files));
        for (name, group, files) in rows.chain([("all", None, self.stored.len())]) {
            let shares = columns.iter().map(|(_, key)| self.share(key, group).cell());
            text += &row([name.to_owned(), files.to_string()].into_iter().chain(shares));
        }
        let _ = write!(text, "\n{} `cargo xtask zoo --readme` writes this table", self.sentence());
        text + "; [every model](docs/zoo.md) has its outcomes.\n"
    }

    /// Totals, and how the two compare.
    fn sentence(&self) -> String {
        let is_whole = |runtime: &&Runtime| runtime.backend != "webnn";
        let whole: Vec<&Runtime> = self.ours.iter().filter(is_whole).collect();
        let everywhere = self.stored.iter().filter(|one| {
            whole.iter().all(|runtime| self.is_right(one, runtime.name) == Some(true))
        });
        let names: Vec<&str> = whole.iter().map(|runtime| runtime.name).collect();
        let mut text = format!(
            "Of {} files {} are right in all of {}.",
            self.stored.len(),
            everywhere.count(),
            names.join(", ")
        );
        let (mut lost, mut won) = (Vec::new(), Vec::new());
        for provider in self.theirs {
            let (ours, theirs) = (provider.counterpart(), provider.key());
            let count = |us: bool| {
                let differ = |one: &&Stored| {
                    self.is_right(one, ours) == Some(us) && self.is_right(one, theirs) == Some(!us)
                };
                self.stored.iter().filter(differ).count()
            };
            if self.ours.iter().any(|runtime| runtime.name == ours) {
                lost.push(format!("{} ({} against {ours})", count(true), provider.name()));
                won.push(count(false).to_string());
            }
        }
        if !lost.is_empty() {
            let _ = write!(
                text,
                " Files that onnxruntime-web {} in the same Chrome gets wrong or refuses, and we get right: {}; the other way round: {}.",
                self.rival,
                lost.join(", "),
                won.join(" and ")
            );
        }
        text
    }

    /// The table of `docs/zoo.md`: every model, and everything that is not right, with its kind.
    pub(crate) fn long(&self) -> String {
        let columns = self.columns();
        let mut text = String::from("## Where\n\n");
        text += &head(["runtime", "browser", "adapter"].map(str::to_owned).into_iter());
        for (title, key) in &columns {
            let outcomes = || self.stored.iter().filter_map(|one| one.outcome(key));
            let all = |name: fn(&Outcome) -> Option<&String>| {
                let names: BTreeSet<&str> =
                    outcomes().filter_map(name).map(String::as_str).collect();
                names.into_iter().collect::<Vec<_>>().join("; ")
            };
            let (browser, adapter) =
                (all(|outcome| outcome.browser.as_ref()), all(|outcome| outcome.adapter.as_ref()));
            text += &row([title.clone(), browser, adapter].into_iter());
        }
        text += "\n## What is not right, by kind\n\n";
        text += &head(["kind", "files", "where"].map(str::to_owned).into_iter());
        for (kind, models) in self.kinds() {
            let count = models.len().to_string();
            text += &row([cell(&kind), count, models_cell(&models)].into_iter());
        }
        for provider in self.theirs {
            let _ = write!(text, "\n## What is not right in {}\n\n", provider.key());
            text += &head(["model", "outcome", "reason"].map(str::to_owned).into_iter());
            for one in self.stored {
                let Some(outcome) = one.outcome(provider.key()) else { continue };
                if let (Status::Refused | Status::Fail, Some(reason)) =
                    (outcome.status, &outcome.reason)
                {
                    let reason = cell(&one_line(reason, REASON_CHARS_MAX));
                    text +=
                        &row([one.model.clone(), outcome.status.to_string(), reason].into_iter());
                }
            }
        }
        text += "\n## Every model\n\n";
        let titles = columns.iter().map(|(title, _)| title.clone());
        text += &head(["model", "group"].map(str::to_owned).into_iter().chain(titles));
        for one in self.stored {
            let outcomes = columns.iter().map(|(_, key)| {
                one.outcome(key).map_or("-".to_owned(), |outcome| outcome.status.to_string())
            });
            text += &row([one.model.clone(), one.group.clone()].into_iter().chain(outcomes));
        }
        text
    }

    /// Models by the kind of their failure, each with the runtimes; the most frequent kind first.
    fn kinds(&self) -> Vec<(String, Affected<'_>)> {
        let mut kinds: BTreeMap<String, BTreeMap<&str, Vec<String>>> = BTreeMap::new();
        for one in self.stored {
            for &runtime in self.ours {
                let Some(outcome) = one.outcome(runtime.name) else { continue };
                if outcome.status == Status::Pass {
                    continue;
                }
                let kind = self.expected.kind(&one.model, runtime).unwrap_or("not looked at yet");
                let models = kinds.entry(format!("{kind} ({})", outcome.status)).or_default();
                models.entry(&one.model).or_default().push(runtime.name.to_owned());
            }
        }
        let listed = kinds.into_iter().map(|(kind, models)| (kind, models.into_iter().collect()));
        let mut kinds: Vec<(String, Affected<'_>)> = listed.collect();
        kinds.sort_by_key(|(_, models)| std::cmp::Reverse(models.len()));
        kinds
    }

    /// A line for each column.
    pub(crate) fn counts(&self) -> String {
        let mut text = String::new();
        for (title, key) in self.columns() {
            let Share { right, refused, of } = self.share(key, None);
            let wrong = of - right - refused;
            let _ = writeln!(
                text,
                "{title:24} {right} right of {of}, {wrong} wrong, {refused} refused"
            );
        }
        text
    }

    /// Everything that is not right, with its reason.
    pub(crate) fn failures(&self) -> String {
        let mut text = String::new();
        for one in self.stored {
            for (title, key) in self.columns() {
                let Some(outcome) = one.outcome(key) else { continue };
                if let (Status::Refused | Status::Fail, Some(reason)) =
                    (outcome.status, &outcome.reason)
                {
                    let _ = writeln!(text, "{} {title} {}: {reason}", one.model, outcome.status);
                }
            }
        }
        text
    }
}

/// Such as `gpt2 (native-cpu, chrome-cpu), opt (chrome-webnn)`.
fn models_cell(models: &[(&str, Vec<String>)]) -> String {
    let of = |(model, runtimes): &(&str, Vec<String>)| format!("{model} ({})", runtimes.join(", "));
    models.iter().map(of).collect::<Vec<_>>().join(", ")
}

fn head(titles: impl Iterator<Item = String>) -> String {
    let titles: Vec<String> = titles.collect();
    let lines = vec!["---".to_owned(); titles.len()];
    row(titles.into_iter()) + &row(lines.into_iter())
}

fn row(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

/// Text of a program, escaped for Markdown.
fn cell(words: &str) -> String {
    let plain = words.replace('\\', "\\\\").replace('|', "\\|").replace('<', "\\<");
    plain.replace('[', "\\[").replace('*', "\\*").replace('_', "\\_").replace('`', "'")
}

/// Replaces the text between the markers of a file.
pub(crate) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    ensure!(!text.is_empty(), "there is no table");
    let before =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let after = replaced(&before, text)
        .with_context(|| format!("{} has no place for the table: {BEGIN}", path.display()))?;
    fs::write(path, after).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A model with these outcomes on native-cpu, chrome-cpu, and onnxruntime-web's wasm.
    fn stored(model: &str, group: &str, ended: [&str; 3]) -> Stored {
        let outcome = |status: &str| {
            json!({
                "stamp": { "model": "", "program": "" }, "status": status, "browser": "chrome 150",
                "reason": (status != "pass").then_some("a|b"),
            })
        };
        let keys = ["native-cpu", "chrome-cpu", "onnxruntime-web-wasm"];
        let outcomes = keys.into_iter().zip(ended).filter(|(_, status)| !status.is_empty());
        let outcomes: BTreeMap<&str, _> =
            outcomes.map(|(key, status)| (key, outcome(status))).collect();
        serde_json::from_value(json!({ "model": model, "group": group, "outcomes": outcomes }))
            .expect("of this form")
    }

    fn with_zoo(test: impl Fn(&Zoo<'_>)) {
        let stored = [
            stored("a", "text", ["pass", "pass", "refused"]),
            stored("b", "text", ["pass", "fail", "pass"]),
            stored("c", "vision", ["pass", "pass", "pass"]),
            stored("d", "vision", ["pass", "", "fail"]),
        ];
        let runtimes: Vec<Runtime> = Runtime::ALL
            .iter()
            .copied()
            .filter(|runtime| ["native-cpu", "chrome-cpu"].contains(&runtime.name))
            .collect();
        let expected = Expected::parse("b chrome-cpu fail: near ties").expect("a table");
        test(&Zoo {
            stored: &stored,
            ours: &runtimes,
            theirs: &[Provider::Wasm],
            expected: &expected,
            rival: "1.30.0".to_owned(),
        });
    }

    #[test]
    fn the_readme_has_shares_by_group() {
        with_zoo(|zoo| {
            let text = zoo.short();
            let want = "\
                | group | files | native-cpu | chrome-cpu | onnxruntime-web wasm |\n\
                | --- | --- | --- | --- | --- |\n\
                | text | 2 | 2/2 | 1/2 | 1/2 |\n\
                | vision | 2 | 2/2 | 1/1 | 1/2 |\n\
                | all | 4 | 4/4 | 2/3 | 2/4 |\n\
                \n\
                Of 4 files 2 are right in all of native-cpu, chrome-cpu. ";
            assert!(text.starts_with(want), "{text}");
            let compared = "gets wrong or refuses, and we get right: 1 (wasm against chrome-cpu); the other way round: 1.";
            assert!(text.contains(compared), "{text}");
        });
    }

    #[test]
    fn the_document_has_every_model_and_kind() {
        with_zoo(|zoo| {
            let text = zoo.long();
            for line in [
                "| native-cpu | chrome 150 |  |",
                "| near ties (fail) | 1 | b (chrome-cpu) |",
                "| a | refused | a\\|b |",
                "| d | vision | pass | - | fail |",
            ] {
                assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
            }
        });
    }

    #[test]
    fn a_run_prints_counts_and_failures() {
        with_zoo(|zoo| {
            let counts = zoo.counts();
            assert!(counts.contains("2 right of 4, 1 wrong, 1 refused"), "{counts}");
            assert!(zoo.failures().starts_with("a onnxruntime-web wasm refused: a|b\n"));
        });
    }

    #[test]
    fn the_table_takes_the_place_of_the_old_one() {
        let text = format!("a\n{BEGIN}old\n{END}\nb\n");
        let once = replaced(&text, "| new |\n").expect("a place");
        assert_eq!(once, format!("a\n{BEGIN}| new |\n{END}\nb\n"));
        assert_eq!(replaced(&once, "| new |\n"), Some(once.clone()));
        assert_eq!(replaced("a\n", "| new |\n"), None);
    }
}
