//! The report of a run: counts, and every failure with its stage and reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::Serialize;

use crate::{
    case::Facts,
    outcome::{Failure, Outcome, RuntimeName, Stage},
    prepare::Verdict,
    scope::Rule,
    suite::{Judged, Suite},
};

/// One runtime's results. `in_scope` is `passed + failed`. A case in which no kernel ran shows nothing about a runtime, so it
/// is neither and is counted separately, like a case that the backend refused.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The runtime.
    pub runtime: &'static str,
    /// Cases that count.
    pub in_scope: usize,
    /// Those that are right.
    pub passed: usize,
    /// Those that are wrong or could not be run.
    pub failed: usize,
    /// Cases that a rule excludes.
    pub out_of_scope: usize,
    /// Cases whose outputs are right and in which no kernel ran.
    pub no_kernel: usize,
    /// Cases that the backend refused, because it does not have one of their operators.
    pub refused: usize,
    /// How many each rule excludes.
    pub rules: BTreeMap<&'static str, usize>,
    /// Every failure.
    pub failures: Vec<Line>,
    /// Every refusal.
    pub refusals: Vec<Line>,
    /// The cases in which no kernel ran.
    pub without_kernel: Vec<String>,
    /// Passed cases of which elements are off by more than 1 % of themselves, and the largest part of an output's elements that is.
    pub elements_off: BTreeMap<String, f64>,
    /// Cases that need inputs as an example when they are loaded, because a model must know their values then.
    pub from_example: Vec<String>,
}

/// The counts of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "as in the report")]
pub struct Summary {
    pub runtime: &'static str,
    pub in_scope: usize,
    pub passed: usize,
    pub failed: usize,
    pub out_of_scope: usize,
    pub no_kernel: usize,
    pub refused: usize,
}

/// A case that failed or was refused.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The case.
    pub case: String,
    /// How far it came.
    pub stage: Stage,
    /// Why not further.
    pub reason: String,
    /// Its operators.
    pub operators: BTreeSet<String>,
}

impl Line {
    fn new(facts: &Facts, failure: &Failure) -> Line {
        Line {
            case: facts.name.clone(),
            stage: failure.stage,
            reason: failure.reason.clone(),
            operators: facts.operators.clone(),
        }
    }
}

impl Report {
    /// The report of the results of a suite.
    pub fn new(runtime: RuntimeName, suite: &Suite, judged: &[Judged]) -> Report {
        let mut rules: BTreeMap<&str, usize> =
            Rule::ALL.iter().map(|rule| (rule.name(), 0)).collect();
        for (_, rule) in &suite.out_of_scope {
            *rules.entry(rule.name()).or_default() += 1;
        }
        let (mut passed, mut failures, mut refusals) = (0, Vec::new(), Vec::new());
        let mut without_kernel = Vec::new();
        let mut examples = Vec::new();
        let mut elements_off = BTreeMap::new();
        for Judged { facts, verdict } in judged {
            let Verdict { outcome, from_example, elements_off: off } = verdict;
            elements_off.extend((*off > 0.0).then(|| (facts.name.clone(), *off)));
            examples.extend(from_example.then(|| facts.name.clone()));
            match outcome {
                Outcome::Passed => passed += 1,
                Outcome::NoKernel => without_kernel.push(facts.name.clone()),
                Outcome::Failed(failure) => failures.push(Line::new(facts, failure)),
                Outcome::Refused(failure) => refusals.push(Line::new(facts, failure)),
            }
        }
        Report {
            runtime: runtime.name(),
            in_scope: passed + failures.len(),
            passed,
            failed: failures.len(),
            out_of_scope: suite.out_of_scope.len(),
            no_kernel: without_kernel.len(),
            refused: refusals.len(),
            rules,
            failures,
            refusals,
            without_kernel,
            elements_off,
            from_example: examples,
        }
    }

    /// The counts.
    pub fn summary(&self) -> Summary {
        let &Report { runtime, in_scope, passed, failed, out_of_scope, no_kernel, refused, .. } =
            self;
        Summary { runtime, in_scope, passed, failed, out_of_scope, no_kernel, refused }
    }

    /// Passed cases in percent of those in scope.
    pub fn share(&self) -> f64 {
        100.0 * self.passed as f64 / self.in_scope.max(1) as f64
    }

    /// As text for people; `list` adds every failure.
    pub fn text(&self, list: bool) -> String {
        let mut text = String::new();
        if list {
            let lines = || self.failures.iter().chain(&self.refusals);
            let width = lines().map(|line| line.case.len()).max().unwrap_or(0);
            for Line { case, stage, reason, .. } in lines() {
                let _ = writeln!(text, "{case:<width$}  {stage:<7}  {reason}");
            }
            if !self.without_kernel.is_empty() {
                let _ = writeln!(text, "no kernel ran: {}", self.without_kernel.join(" "));
            }
            for (case, part) in &self.elements_off {
                let _ = writeln!(text, "{case}: {:.1} % of the elements are off", part * 100.0);
            }
            if !self.from_example.is_empty() {
                let _ = writeln!(text, "loaded with an example: {}", self.from_example.join(" "));
            }
        }
        let _ = writeln!(
            text,
            "{}: {} passed of {} ({:.1} %), {} failed, {} refused, {} in which no kernel ran",
            self.runtime,
            self.passed,
            self.in_scope,
            self.share(),
            self.failed,
            self.refused,
            self.no_kernel
        );
        let rules: Vec<String> = self
            .rules
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(rule, count)| format!("{rule} {count}"))
            .collect();
        let _ = write!(
            text,
            "out of scope: {} ({}); loaded with an example of their inputs: {}; passed with elements off by more than 1 % of themselves: {}",
            self.out_of_scope,
            rules.join(", "),
            self.from_example.len(),
            self.elements_off.len()
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::PathBuf};

    use super::*;
    use crate::case::Kind;

    #[test]
    fn a_case_without_a_kernel_is_neither_passed_nor_failed() {
        let facts = |name: &str| Facts {
            name: name.to_owned(),
            kind: Kind::Node,
            data: Vec::new(),
            no_data: None,
            operators: BTreeSet::from(["Add".to_owned()]),
            domains: BTreeSet::new(),
            types: BTreeSet::new(),
            kinds: BTreeSet::new(),
            wide_integers: false,
            random_dropout: false,
        };
        let suite = Suite {
            cases: PathBuf::new(),
            in_scope: ["a", "b", "c", "e"].map(facts).to_vec(),
            out_of_scope: vec![(facts("d"), Rule::Float64)],
        };
        let outcomes = [
            Outcome::Passed,
            Outcome::NoKernel,
            Outcome::Failed(Failure::new(Stage::Run, "broken")),
            Outcome::Refused(Failure::new(Stage::Refuse, "no such operator")),
        ];
        let judged: Vec<Judged> = suite
            .in_scope
            .iter()
            .zip(outcomes)
            .map(|(facts, outcome)| Judged {
                facts: facts.clone(),
                verdict: Verdict {
                    from_example: facts.name == "a",
                    elements_off: if facts.name == "a" { 0.25 } else { 0.0 },
                    ..outcome.into()
                },
            })
            .collect();
        let report = Report::new(RuntimeName::NativeCpu, &suite, &judged);
        let want = Summary {
            runtime: "native-cpu",
            in_scope: 2,
            passed: 1,
            failed: 1,
            out_of_scope: 1,
            no_kernel: 1,
            refused: 1,
        };
        assert_eq!(report.summary(), want);
        let text = report.text(true);
        for words in [
            "c  run      broken",
            "no kernel ran: b",
            "1 passed of 2 (50.0 %)",
            "float64 1",
            "1 refused",
            "loaded with an example: a",
            "a: 25.0 % of the elements are off",
            "themselves: 1",
        ] {
            assert!(text.contains(words), "{words:?} is not in {text}");
        }
    }
}
