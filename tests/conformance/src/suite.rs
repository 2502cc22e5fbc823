//! Runs cases on a runtime, each within its time limit, so that one that hangs, panics or kills a page does not affect
//! others.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use flotilla_protocol::Backend;
#[cfg(feature = "browsers")]
use flotilla_protocol::LoadTerms;

#[cfg(feature = "browsers")]
use crate::browser::Browser;
use crate::{
    case::{Facts, Index},
    guard::Guard,
    native::Native,
    outcome::{Failure, Outcome, Stage},
    prepare::{Verdict, judge, prepare},
    scope::{Rule, excluded_by},
};

/// Most cases that are prepared in advance for a browser; real networks take hundreds of megabytes each.
#[cfg(feature = "browsers")]
const PREPARED_MAX: usize = 1;

/// What to run.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The folder of cases.
    pub cases: PathBuf,
    /// The cases in scope.
    pub in_scope: Vec<Facts>,
    /// The other cases, with the rule that excludes each.
    pub out_of_scope: Vec<(Facts, Rule)>,
}

/// How one case ended.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The case.
    pub facts: Facts,
    /// How it ended.
    pub verdict: Verdict,
}

impl Suite {
    /// The cases of an index whose names `wanted` accepts.
    pub fn new(cases: &Path, index: Index, wanted: impl Fn(&str) -> bool) -> Suite {
        let mut suite =
            Suite { cases: cases.to_owned(), in_scope: Vec::new(), out_of_scope: Vec::new() };
        for facts in index.cases {
            if !wanted(&facts.name) {
                continue;
            }
            match excluded_by(&facts) {
                Some(rule) => suite.out_of_scope.push((facts, rule)),
                None => suite.in_scope.push(facts),
            }
        }
        suite
    }

    /// A selection that has every operator: for each, the first of the cases with about the fewest operators.
    pub fn one_per_operator(&self) -> Suite {
        let mut simplest: BTreeMap<&str, &Facts> = BTreeMap::new();
        for facts in &self.in_scope {
            for operator in &facts.operators {
                let known = simplest.entry(operator).or_insert(facts);
                if facts.operators.len() < known.operators.len() {
                    *known = facts;
                }
            }
        }
        let names: BTreeSet<&str> = simplest.values().map(|facts| facts.name.as_str()).collect();
        let in_scope = self.in_scope.iter().filter(|facts| names.contains(facts.name.as_str()));
        Suite {
            cases: self.cases.clone(),
            in_scope: in_scope.cloned().collect(),
            out_of_scope: Vec::new(),
        }
    }

    /// Runs the cases in scope on a native backend, `threads` cases at a time.
    pub fn run_native(
        &self,
        backend: Backend,
        threads: usize,
        limit: Duration,
        progress: &(dyn Fn(&Judged) + Sync),
    ) -> Vec<Judged> {
        let guard = || {
            let cases = self.cases.clone();
            Guard::new(limit, move || {
                let (cases, mut native) = (cases.clone(), Native::new(backend));
                Box::new(move |facts: Facts| {
                    judge(prepare(&cases, &facts), |trial| native.run(trial))
                })
            })
        };
        let next = AtomicUsize::new(0);
        let judged = Mutex::new(Vec::new());
        let work = || {
            let mut guard = guard();
            while let Some(facts) = self.in_scope.get(next.fetch_add(1, Ordering::Relaxed)) {
                let verdict = guard.call(facts.clone()).unwrap_or_else(|broken| {
                    Outcome::Failed(Failure::new(Stage::Run, broken)).into()
                });
                let one = Judged { facts: facts.clone(), verdict };
                progress(&one);
                if let Ok(mut judged) = judged.lock() {
                    judged.push(one);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(work);
            }
        });
        let mut judged = judged.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        judged.sort_by(|a, b| a.facts.name.cmp(&b.facts.name));
        judged
    }

    /// Runs the cases in scope in a browser and ends it. While a case runs there, the next one is prepared here.
    #[cfg(feature = "browsers")]
    pub fn run_browser(
        &self,
        mut browser: Browser,
        limit: Duration,
        progress: &dyn Fn(&Judged),
    ) -> Vec<Judged> {
        let (sender, prepared) = std::sync::mpsc::sync_channel(PREPARED_MAX);
        let prepare_all = move || {
            let cases = self.cases.clone();
            let mut guard = Guard::new(limit, move || {
                let cases = cases.clone();
                Box::new(move |facts: Facts| prepare(&cases, &facts))
            });
            for facts in &self.in_scope {
                let trials = guard
                    .call(facts.clone())
                    .unwrap_or_else(|broken| Err(Failure::new(Stage::Import, broken)));
                if sender.send((facts.clone(), trials)).is_err() {
                    return;
                }
            }
        };
        let mut judged = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(prepare_all);
            for (facts, trials) in prepared {
                let verdict = judge(trials, |trial| {
                    let runs = std::slice::from_ref(&trial.inputs);
                    let terms = LoadTerms::default();
                    let results = browser.run(&trial.program, &trial.blobs, &terms, runs)?;
                    Ok(results.into_iter().next().unwrap_or_default())
                });
                let one = Judged { facts, verdict };
                progress(&one);
                judged.push(one);
            }
        });
        browser.end();
        judged.sort_by(|a, b| a.facts.name.cmp(&b.facts.name));
        judged
    }
}
