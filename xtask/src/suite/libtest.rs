//! What `cargo test -- --show-output` prints, where nextest is not installed.

use std::collections::{BTreeMap, BTreeSet};

use super::tally::{Skip, Tests, skip_reasons};

/// Reads the output of any number of test binaries, one after the other.
pub(super) fn parse(output: &str) -> Tests {
    let mut tests = Tests::default();
    let mut binary = Binary::default();
    let mut shown: Option<&str> = None;
    for line in output.lines() {
        if let Some(name) =
            line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            shown = Some(name);
        } else if let Some((name, outcome)) = result(line) {
            match outcome {
                "ok" => binary.passed.insert(name),
                "FAILED" => binary.failed.insert(name),
                _ => binary.ignored.insert(name),
            };
        } else if line.starts_with("test result: ") {
            std::mem::take(&mut binary).count(&mut tests);
            shown = None;
        } else if let Some(name) = shown {
            binary.reasons.entry(name).or_default().extend(skip_reasons(line));
        }
    }
    tests
}

/// `test name ... outcome`, or with more words after `ignored`.
fn result(line: &str) -> Option<(&str, &str)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let outcome = outcome.split([',', ' ']).next()?;
    matches!(outcome, "ok" | "FAILED" | "ignored").then_some((name, outcome))
}

/// One test binary's tests by their names, which are unique only there.
#[derive(Default)]
struct Binary<'a> {
    passed: BTreeSet<&'a str>,
    failed: BTreeSet<&'a str>,
    ignored: BTreeSet<&'a str>,
    reasons: BTreeMap<&'a str, Vec<&'a str>>,
}

impl Binary<'_> {
    fn count(self, tests: &mut Tests) {
        for name in self.passed {
            match self.reasons.get(name).filter(|reasons| !reasons.is_empty()) {
                Some(reasons) => {
                    tests.skips.push(Skip { what: name.to_owned(), reason: reasons.join("; ") })
                }
                None => tests.passed += 1,
            }
        }
        tests.failures.extend(self.failed.into_iter().map(str::to_owned));
        let ignored = self.ignored.into_iter();
        tests.skips.extend(
            ignored.map(|name| Skip {
                what: name.to_owned(),
                reason: "marked `#[ignore]`".to_owned(),
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_binaries_are_read() {
        let output = "
running 4 tests
test a ... ok
test b ... ok
test c ... FAILED
test d ... ignored, needs a week

successes:

---- b stdout ----
trying
skipped: no Firefox

failures:

---- c stdout ----
skipped: not really

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s

running 1 test
test b ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        let tests = parse(output);
        assert_eq!(tests.passed, 2);
        assert_eq!(tests.failures, ["c"]);
        let what: Vec<&str> = tests.skips.iter().map(|skip| skip.what.as_str()).collect();
        assert_eq!(what, ["b", "d"]);
        assert_eq!(tests.skips[0].reason, "no Firefox");
    }
}
