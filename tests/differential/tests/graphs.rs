//! A part of the random graphs, as `cargo xtask test` runs it.
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

use std::thread;

use flotilla_conformance::outcome::RuntimeName;
use flotilla_differential::{
    case::Case,
    judge::{Judge, Outcome, Stage, library},
    shrink,
    tally::Tally,
};
use flotilla_reference::OnnxRuntime;

/// How many graphs are judged here; `cargo xtask differential` judges more.
const GRAPHS: u64 = 150;
/// Largest percentage of graphs that onnxruntime may not take.
const NOT_TAKEN_MAX: f64 = 2.0;
/// Fewest operators in these graphs.
const OPERATORS_MIN: usize = 100;
/// Code without optimization needs a large stack for graphs that are walked recursively.
const STACK_BYTES: usize = 64 << 20;

fn here() -> Option<OnnxRuntime> {
    match library() {
        Ok(library) => Some(library),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

fn with_stack(work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(work).expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_seed_makes_the_same_graph_again() {
    for seed in 0..40 {
        let (one, other) = (Case::of_seed(seed), Case::of_seed(seed));
        assert_eq!(one.bytes(), other.bytes(), "seed {seed}");
        assert_eq!(one.runs, other.runs, "seed {seed}");
        assert!(one.nodes() >= 3, "seed {seed} has {} nodes", one.nodes());
    }
    assert_ne!(Case::of_seed(1).bytes(), Case::of_seed(2).bytes());
}

#[test]
fn random_graphs_have_onnxruntimes_results() {
    let Some(library) = here() else { return };
    with_stack(move || {
        let mut judge = Judge::new(library, RuntimeName::NativeCpu).expect("the cpu is there");
        let mut tally = Tally::default();
        for seed in 1..=GRAPHS {
            let case = Case::of_seed(seed);
            let outcome = judge.judge(&case);
            tally.add(&case, &outcome);
        }
        println!("{}", tally.text());
        assert!(
            tally.failures.is_empty(),
            "`cargo xtask differential --count 1 --seed SEED` says more: {:#?}",
            tally.failures
        );
        assert!(tally.not_taken_percent() <= NOT_TAKEN_MAX, "{}", tally.not_taken_percent());
        assert!(tally.operators.len() >= OPERATORS_MIN, "{}", tally.operators.len());
        assert!(tally.blind * 2 > tally.graphs, "{} for several sizes", tally.blind);
    });
}

#[test]
fn a_failure_becomes_small() {
    let Some(library) = here() else { return };
    with_stack(move || {
        let mut judge = Judge::new(library, RuntimeName::NativeCpu).expect("the cpu is there");
        // A wrong claim about one of many results.
        let mut case = (0..)
            .map(Case::of_seed)
            .find(|case| case.nodes() > 15 && judge.judge(case) == Outcome::Agrees)
            .expect("a large graph");
        let outputs = case.model.graph.as_ref().expect("a graph").output.clone();
        let wrong = outputs.last().expect("an output").name.clone();
        let claim = case.claims.get_mut(&wrong).expect("a claim");
        (claim.facts.low, claim.facts.high) = (1e6, 2e6);
        let Outcome::Failed(failure) = judge.judge(&case) else { panic!("it is not told") };
        assert_eq!(failure.stage, Stage::Generator);
        assert!(failure.reason.contains(&wrong), "{failure}");
        let (small, failure) = shrink::smallest(&mut judge, &case, &failure);
        assert!(failure.reason.contains(&wrong), "{failure}");
        assert!(small.nodes() < case.nodes() / 3, "{} of {}", small.nodes(), case.nodes());
        assert_eq!(small.model.graph.expect("a graph").output.len(), 1);
    });
}
