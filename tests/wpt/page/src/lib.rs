//! The cases of web-platform-tests' `webnn` suite, inside a page: each is built with the typed methods of `flotilla-webnn`,
//! dispatched and compared.
//!
//! The page is given cases as JSON and gives outcomes as JSON; who it is that opens the page, and what outcome is
//! expected, is `flotilla-wpt`'s.

mod arguments;
mod compare;
mod data;
mod graph;
mod limits;
mod operators;
mod tolerance;

use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

use graph::{Graph, Stop};

/// Runs one case on a context of its own.
///
/// `case` has a `name` and a `graph`: `inputs`, `operators` and `expectedOutputs` as web-platform-tests writes them. The
/// outcome is `{"outcome": "passed" | "failed" | "unsupported", "reason": ".."}`. Unsupported is what the browser
/// says that it lacks: a data type or a rank that is not in its limits, or a `NotSupportedError`. Failed is all else that is not
/// right.
#[wasm_bindgen]
pub async fn run(case: String) -> String {
    let outcome = match outcome(&case).await {
        Ok(()) => json!({ "outcome": "passed", "reason": "" }),
        Err(Stop::Failed(reason)) => json!({ "outcome": "failed", "reason": reason }),
        Err(Stop::Unsupported(reason)) => json!({ "outcome": "unsupported", "reason": reason }),
    };
    outcome.to_string()
}

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
