//! The kernel suite in real browsers: every operator's cases, on every backend of every browser.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flotilla::{
    browser::Kind,
    catalog::Catalog,
    local::{Local, Wishes},
    pool::Input,
};
use flotilla_browser_runtime::suite::{Case, cases};
use flotilla_fleet::ModelId;
use flotilla_protocol::Backend;
use flotilla_tests::{place, skip::has_browsers};

/// Longest load of all cases.
const LOAD_MAX: Duration = Duration::from_secs(240);
/// Longest run of one case.
const RUN_MAX: Duration = Duration::from_secs(60);

#[test]
fn browser_chrome_webgpu_runs_every_kernel() {
    check(Kind::Chrome, Backend::WebGpu);
}

#[test]
fn browser_chrome_cpu_runs_every_kernel() {
    check(Kind::Chrome, Backend::Cpu);
}

#[test]
fn browser_firefox_webgpu_runs_every_kernel() {
    check(Kind::Firefox, Backend::WebGpu);
}

#[test]
fn browser_firefox_cpu_runs_every_kernel() {
    check(Kind::Firefox, Backend::Cpu);
}

fn check(kind: Kind, backend: Backend) {
    if !has_browsers(&[kind]) {
        return;
    }
    let cases = cases();
    let mut catalog = Catalog::default();
    let models: Vec<ModelId> = cases
        .iter()
        .map(|case| {
            let blobs: BTreeMap<_, Arc<[u8]>> =
                case.weights.iter().map(|(&id, bytes)| (id, bytes.as_slice().into())).collect();
            catalog.add_program(&case.name, case.program.clone(), blobs).expect("a program")
        })
        .collect();
    let wishes = Wishes {
        backends: vec![backend],
        guardian: Some(place::binary()),
        ..Wishes::of(vec![kind])
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let failures = runtime.block_on(async {
        let local = Local::start(&wishes, Arc::new(catalog), 0).await.expect("a pool");
        let loaded = local.pool.wait_until(|view| {
            view.status.models.iter().all(|model| model.ready > 0 || model.unplaceable.is_some())
        });
        let view = tokio::time::timeout(LOAD_MAX, loaded)
            .await
            .unwrap_or_else(|_| panic!("not all cases were loaded within {LOAD_MAX:?}"))
            .expect("a pool");
        let mut failures = Vec::new();
        for ((case, &model), status) in cases.iter().zip(&models).zip(&view.status.models) {
            let outcome = match &status.unplaceable {
                Some(reason) => Err(format!("not loaded: {reason}")),
                None => run(&local, model, case, kind, backend).await,
            };
            if let Err(error) = outcome {
                failures.push(format!("{}: {error}", case.name));
            }
        }
        local.stop().await;
        failures
    });
    assert!(!cases.is_empty());
    assert!(
        failures.is_empty(),
        "{} of {} cases fail on {backend} in {kind}:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

async fn run(
    local: &Local,
    model: ModelId,
    case: &Case,
    kind: Kind,
    backend: Backend,
) -> Result<(), String> {
    let answer = local
        .pool
        .run(model, Input::Tensors(case.inputs.clone()), RUN_MAX)
        .await
        .map_err(|error| error.to_string())?;
    let who = &answer.provenance;
    if (who.browser.as_str(), who.backend, who.simulated) != (kind.name(), backend, false) {
        return Err(format!("computed elsewhere: {who:?}"));
    }
    case.verify(&answer.outputs)
}
