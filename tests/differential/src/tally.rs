//! Totals of many cases.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    case::Case,
    judge::{Failure, Outcome},
};

/// Counts of outcomes.
#[derive(Debug, Default)]
pub struct Tally {
    /// All of them.
    pub graphs: usize,
    /// Those that were loaded once, without an example, and run for two sets of sizes.
    pub blind: usize,
    /// Graphs on which both engines agree.
    pub agreed: usize,
    /// In how many graphs that both engines took each operator occurs.
    pub operators: BTreeMap<String, usize>,
    /// Graphs that onnxruntime does not take, by reason.
    pub not_taken: BTreeMap<String, Vec<u64>>,
    /// Graphs that we refuse on purpose, by limit.
    pub refused: BTreeMap<&'static str, Vec<u64>>,
    /// The failures.
    pub failures: Vec<(u64, Failure)>,
}

impl Tally {
    /// Counts a case.
    pub fn add(&mut self, case: &Case, outcome: &Outcome) {
        self.graphs += 1;
        match outcome {
            Outcome::Agrees => {
                self.agreed += 1;
                self.blind += usize::from(case.is_blind);
                for operator in case.operators() {
                    *self.operators.entry(operator).or_default() += 1;
                }
            }
            Outcome::NotTaken(reason) => {
                self.not_taken.entry(without_names(reason)).or_default().push(case.seed);
            }
            Outcome::Refused(limit) => self.refused.entry(limit).or_default().push(case.seed),
            Outcome::Failed(failure) => self.failures.push((case.seed, failure.clone())),
        }
    }

    /// The share of graphs that onnxruntime does not take, in percent.
    pub fn not_taken_percent(&self) -> f64 {
        let count: usize = self.not_taken.values().map(Vec::len).sum();
        100.0 * count as f64 / self.graphs.max(1) as f64
    }

    /// Everything as a table.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "graphs that held an operator, of those that agree:");
        let words: Vec<String> =
            self.operators.iter().map(|(name, count)| format!("{name} {count}")).collect();
        for line in words.chunks(8) {
            let _ = writeln!(text, "  {}", line.join(", "));
        }
        for (reason, seeds) in &self.not_taken {
            let _ = writeln!(
                text,
                "not taken by onnxruntime ({}, such as seed {}): {reason}",
                seeds.len(),
                seeds[0]
            );
        }
        for (limit, seeds) in &self.refused {
            let _ = writeln!(text, "refused ({}, such as seed {}): {limit}", seeds.len(), seeds[0]);
        }
        let refused: usize = self.refused.values().map(Vec::len).sum();
        let _ = writeln!(
            text,
            "{} graphs of {} operators: {} agree ({} of them loaded once for two sets of sizes), {} refused, {:.1} % not taken by onnxruntime, {} failed",
            self.graphs,
            self.operators.len(),
            self.agreed,
            self.blind,
            refused,
            self.not_taken_percent(),
            self.failures.len()
        );
        text
    }
}

/// A reason without its numbers, so that equal reasons are counted together.
fn without_names(reason: &str) -> String {
    let mut short = String::new();
    for letter in reason.chars().take(400) {
        match letter {
            '0'..='9' if short.ends_with('#') => {}
            '0'..='9' => short.push('#'),
            letter => short.push(letter),
        }
    }
    short
}
