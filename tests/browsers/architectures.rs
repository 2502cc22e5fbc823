//! Eleven architectures in real browsers, on their backends: one browser at a time loads all of
//! them.

use std::{sync::Arc, time::Duration};

use flotilla::{
    browser::{Build, Kind},
    catalog::Catalog,
    local::{Local, LocalOptions},
    pool::Input,
};
use flotilla_check::Subject;
use flotilla_fleet::ModelId;
use flotilla_protocol::Backend;
use flotilla_tests::{
    architecture::{ARCHITECTURES, verify},
    place,
    skip::has_browsers,
};

/// Longest load of all models.
const LOAD_MAX: Duration = Duration::from_secs(180);
/// Longest run.
const RUN_MAX: Duration = Duration::from_secs(60);

#[test]
fn browser_chrome_agrees_with_pytorch_on_every_architecture() {
    check(Kind::Chrome, &[Backend::WebGpu, Backend::Cpu]);
}

#[test]
fn browser_firefox_agrees_with_pytorch_on_every_architecture() {
    check(Kind::Firefox, &[Backend::WebGpu, Backend::Cpu]);
}

#[test]
fn browser_chrome_webnn_agrees_with_pytorch_on_every_architecture() {
    check(Build::chrome_webnn(), &[Backend::WebNn]);
}

fn check(build: impl Into<Build>, backends: &[Backend]) {
    let build = build.into();
    if !has_browsers(std::slice::from_ref(&build)) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let failures = runtime.block_on(async {
        let mut subjects = Vec::new();
        for architecture in ARCHITECTURES {
            let recorded = architecture.recorded().await;
            let other = architecture.other(&recorded).await;
            subjects.push([recorded, other]);
        }
        let mut failures = Vec::new();
        for &backend in backends {
            failures.extend(run_all(&build, backend, &subjects).await);
        }
        failures
    });
    assert!(failures.is_empty(), "{build}:\n{}", failures.join("\n"));
}

async fn run_all(build: &Build, backend: Backend, subjects: &[[Subject; 2]]) -> Vec<String> {
    let mut catalog = Catalog::default();
    let models: Vec<ModelId> = ARCHITECTURES
        .iter()
        .zip(subjects)
        .map(|(architecture, [subject, _])| {
            let (program, blobs) = (subject.program.clone(), subject.blobs.clone());
            catalog.add_program(architecture.name, program, blobs).expect("a program")
        })
        .collect();
    let options = LocalOptions {
        backends: vec![backend].into(),
        guardian: Some(place::binary()),
        ..LocalOptions::of(vec![build.clone()])
    };
    let local = Local::start(&options, Arc::new(catalog), 0).await.expect("a pool");
    let loaded = local.pool.wait_until(|view| {
        view.status.models.iter().all(|model| model.ready > 0 || model.unplaceable.is_some())
    });
    let view = tokio::time::timeout(LOAD_MAX, loaded)
        .await
        .unwrap_or_else(|_| panic!("{build} did not load all on {backend} within {LOAD_MAX:?}"))
        .expect("a pool");
    let mut failures = Vec::new();
    for (((architecture, both), &model), status) in
        ARCHITECTURES.iter().zip(subjects).zip(&models).zip(&view.status.models)
    {
        for subject in both {
            let outcome = match &status.unplaceable {
                Some(reason) => Err(format!("not loaded: {reason}")),
                None => run(&local, model, subject, build, backend).await,
            };
            if let Err(reason) = outcome {
                let shapes = subject.shapes();
                failures.push(format!("{} on {backend}, {shapes}: {reason}", architecture.name));
            }
        }
    }
    local.stop().await;
    failures
}

async fn run(
    local: &Local,
    model: ModelId,
    subject: &Subject,
    build: &Build,
    backend: Backend,
) -> Result<(), String> {
    let answer = local.pool.run(model, Input::Tensors(subject.inputs().to_vec()), RUN_MAX).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let who = &answer.provenance;
    if (who.browser.as_str(), who.backend, who.simulated) != (build.name.as_str(), backend, false) {
        return Err(format!("computed elsewhere: {who:?}"));
    }
    verify(subject, answer.outputs)
}
