//! What was run and how it ended.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Everything that is reported at the end.
#[derive(Debug, Default, Serialize)]
pub(super) struct Tally {
    steps: Vec<Step>,
    failures: Vec<String>,
    skips: Vec<Skip>,
    passed: usize,
}

#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    seconds: f64,
    failure: Option<String>,
}

/// Something that was not done, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Skip {
    pub(super) what: String,
    pub(super) reason: String,
}

/// How tests ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tests {
    pub(super) passed: usize,
    pub(super) failures: Vec<String>,
    pub(super) skips: Vec<Skip>,
}

impl Tally {
    /// A step is counted as one thing that passed or failed, unless it is the tests, which count themselves.
    pub(super) fn add_step(&mut self, name: &'static str, time: Duration, failure: Option<String>) {
        self.steps.push(Step { name, seconds: time.as_secs_f64(), failure });
    }

    pub(super) fn add_tests(&mut self, tests: Tests) {
        self.passed += tests.passed;
        self.failures.extend(tests.failures);
        self.skips.extend(tests.skips);
    }

    pub(super) fn skip(&mut self, skip: Skip) {
        self.skips.push(skip);
    }

    pub(super) fn fail(&mut self, failure: String) {
        self.failures.push(failure);
    }

    pub(super) fn has_failed(&self) -> bool {
        !self.failures.is_empty() || self.steps.iter().any(|step| step.failure.is_some())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for Step { name, seconds, failure } in &self.steps {
            let outcome = if failure.is_some() { "failed" } else { "ok" };
            writeln!(f, "{name:<28} {outcome:<7} {seconds:>8.1} s")?;
        }
        for Skip { what, reason } in &self.skips {
            writeln!(f, "skipped: {what}: {reason}")?;
        }
        for failure in &self.failures {
            writeln!(f, "failed: {failure}")?;
        }
        let failed_steps =
            self.steps.iter().filter_map(|step| Some((step.name, step.failure.as_ref()?)));
        let mut steps_failed = 0;
        for (name, failure) in failed_steps {
            writeln!(f, "failed: {name}: {failure}")?;
            steps_failed += 1;
        }
        let steps_passed = self.steps.len() - steps_failed;
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed + steps_passed,
            self.failures.len() + steps_failed,
            self.skips.len()
        )
    }
}

/// The reasons in what a test printed: each line `skipped: reason`.
pub(super) fn skip_reasons(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter_map(|line| line.trim().strip_prefix("skipped: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_everything() {
        let mut tally = Tally::default();
        tally.add_step("fmt", Duration::from_secs(1), None);
        tally.add_step("clippy", Duration::from_secs(2), Some("exit 101".into()));
        tally.add_tests(Tests {
            passed: 5,
            failures: vec!["a::b".into()],
            skips: vec![Skip { what: "c".into(), reason: "no Firefox".into() }],
        });
        let text = tally.to_string();
        assert_eq!(text.lines().next_back(), Some("6 passed, 2 failed, 1 skipped"));
        for line in ["skipped: c: no Firefox", "failed: a::b", "failed: clippy: exit 101"] {
            assert!(text.lines().any(|it| it == line), "{text}");
        }
        assert!(tally.has_failed());
    }

    #[test]
    fn reasons_are_whole_lines() {
        let output = "starting\nskipped: no GPU\n  skipped: no Firefox\nnot skipped: x\n";
        assert_eq!(skip_reasons(output).collect::<Vec<_>>(), ["no GPU", "no Firefox"]);
    }
}
