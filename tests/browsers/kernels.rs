//! The kernel suite in real browsers: every operator's cases, on every backend of every browser.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla::{
    browser::{Build, Kind},
    catalog::Catalog,
    local::{Local, LocalOptions},
    pool::Input,
};
use flotilla_fleet::ModelId;
use flotilla_kernels::{
    cases,
    suite::{Case, Scope},
};
use flotilla_protocol::Backend;
use flotilla_tests::{place, skip::has_browsers};

/// Cases that WebNN does not take, with the reason; a test of the runtime checks that the list is right.
const REFUSED_BY_WEBNN: &str = include_str!("../../browser-runtime/src/backend/webnn/refused.txt");
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

/// Operators that WebNN does not have are refused and listed; everything else runs there.
#[test]
fn browser_chrome_webnn_runs_every_kernel_that_it_does_not_refuse() {
    check(Build::chrome_webnn(), Backend::WebNn);
}

fn check(build: impl Into<Build>, backend: Backend) {
    let build = build.into();
    if !has_browsers(std::slice::from_ref(&build)) {
        return;
    }
    let refused: BTreeMap<&str, &str> = match backend {
        Backend::WebNn => {
            REFUSED_BY_WEBNN.lines().filter_map(|line| line.split_once('\t')).collect()
        }
        Backend::WebGpu | Backend::Cpu => BTreeMap::new(),
    };
    let runs = |case: &Case| match case.scope {
        Scope::Everywhere => true,
        Scope::Own => backend != Backend::WebNn,
        Scope::Native => false,
    };
    let cases: Vec<Case> = cases().into_iter().filter(runs).collect();
    let mut catalog = Catalog::default();
    let models: Vec<ModelId> = cases
        .iter()
        .map(|case| {
            let blobs: BTreeMap<_, Bytes> =
                case.weights.iter().map(|(&id, bytes)| (id, bytes.clone().into())).collect();
            catalog.add_program(&case.name, case.program.clone(), blobs).expect("a program")
        })
        .collect();
    let options = LocalOptions {
        backends: vec![backend].into(),
        guardian: Some(place::binary()),
        ..LocalOptions::of(vec![build.clone()])
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let failures = runtime.block_on(async {
        let local = Local::start(&options, Arc::new(catalog), 0).await.expect("a pool");
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
                Some(reason) => match refused.get(case.name.as_str()) {
                    Some(words) if reason.to_string().contains(words) => Ok(()),
                    _ => Err(format!("not loaded: {reason}")),
                },
                None if refused.contains_key(case.name.as_str()) => {
                    Err("it is no longer refused".to_owned())
                }
                None => run(&local, model, case, &build, backend).await,
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
        "{} of {} cases fail on {backend} in {build}:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

async fn run(
    local: &Local,
    model: ModelId,
    case: &Case,
    build: &Build,
    backend: Backend,
) -> Result<(), String> {
    let answer = local
        .pool
        .run(model, Input::Tensors(case.inputs.clone()), RUN_MAX)
        .await
        .map_err(|error| error.to_string())?;
    let who = &answer.provenance;
    if (who.browser.as_str(), who.backend, who.simulated) != (build.name.as_str(), backend, false) {
        return Err(format!("computed elsewhere: {who:?}"));
    }
    case.verify(&answer.outputs)
}
