//! The cases of web-platform-tests' `webnn` suite, inside a page: each is built with the typed methods of `flotilla-webnn`,
//! dispatched and compared.
//!
//! The page gets cases as JSON and returns outcomes as JSON. `flotilla-wpt` opens the page and has the expected outcomes.

#![cfg_attr(
    not(target_arch = "wasm32"),
    expect(dead_code, reason = "natively only the tests of what needs no browser are of use")
)]

#[cfg(target_arch = "wasm32")]
mod arguments;
mod compare;
mod data;
#[cfg(target_arch = "wasm32")]
mod graph;
mod limits;
#[cfg(target_arch = "wasm32")]
mod operators;
mod tolerance;

#[cfg(target_arch = "wasm32")]
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen::prelude::*;

#[cfg(target_arch = "wasm32")]
use graph::{Graph, Stop};

/// Runs one case on its own context.
///
/// `case` has a `name` and a `graph`: `inputs`, `operators` and `expectedOutputs` as web-platform-tests writes them. The outcome
/// is `{"outcome": "passed" | "failed" | "unsupported", "reason": ".."}`. It is unsupported if the browser reports that it lacks
/// something: a data type or a rank that is not in its limits, or a `NotSupportedError`. Everything else that is not right is
/// failed.
#[cfg(target_arch = "wasm32")]
#[wasm_bindgen]
pub async fn run(case: String) -> String {
    let outcome = match outcome(&case).await {
        Ok(()) => json!({ "outcome": "passed", "reason": "" }),
        Err(Stop::Failed(reason)) => json!({ "outcome": "failed", "reason": reason }),
        Err(Stop::Unsupported(reason)) => json!({ "outcome": "unsupported", "reason": reason }),
    };
    outcome.to_string()
}

#[cfg(target_arch = "wasm32")]
async fn outcome(case: &str) -> Result<(), Stop> {
    let case: Value = serde_json::from_str(case)
        .map_err(|error| Stop::Failed(format!("the case is no JSON: {error}")))?;
    let graph = Graph::read(&case).map_err(Stop::Failed)?;
    let tolerance = graph.tolerance().map_err(Stop::Failed)?;
    let results = graph.compute().await?;
    for (expected, result) in graph.expected.iter().zip(results) {
        compare::compare(expected, &result, tolerance)
            .map_err(|difference| Stop::Failed(format!("{}: {difference}", expected.name)))?;
    }
    Ok(())
}
