//! Simulated browsers that answer if no real one does.

use std::{sync::Arc, time::Duration};

use flotilla::{
    browser::{Kind, fault::Fault},
    catalog::Catalog,
    local::{Local, LocalOptions},
    pool::{Input, Terms, View},
};
use flotilla_fleet::{Budget, Policy, StepBudgets};
use flotilla_tests::model;

const LONG: Duration = Duration::from_secs(60);

/// A browser dies during a request that a simulated one may answer, and no other step is tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_browser_answers_as_the_last_resort() {
    let folder = tempfile::tempdir().expect("a folder");
    let catalog = Arc::new(Catalog::open(&[model::small(folder.path(), "small")]));
    let never = Budget { tries_max: 0, wait_max: Duration::ZERO };
    let mut options = LocalOptions {
        simulated: true,
        fallback_to_simulation: true,
        backends: vec![flotilla_protocol::Backend::Cpu].into(),
        ..LocalOptions::of(vec![Kind::Chrome])
    };
    let once = Budget { tries_max: 1, wait_max: LONG };
    options.fleet.step_budgets = StepBudgets {
        retry: never,
        reset: never,
        migrate: never,
        reconstruct: never,
        simulate: once,
    };
    let local = Local::start(&options, catalog.clone(), 0).await.expect("a pool");
    let pool = local.pool.clone();
    let is_ready = |view: &View| view.status.models.iter().all(|model| model.ready > 0);
    let view = pool.wait_until(is_ready).await.expect("ready");
    let first = view.status.slots[0].browser.expect("a browser");
    assert_eq!(view.status.slots.len(), 2, "one slot is the fallback's");

    pool.fault(first, Fault::Silence).await.expect("it can be silenced");
    let policy = Policy { fallback_to_simulation: true, ..Policy::default() };
    let terms = Terms { policy, ..Terms::from(LONG) };
    let model = catalog.models[0].id;
    let asking = tokio::spawn({
        let pool = pool.clone();
        async move { pool.run(model, Input::Tokens(vec![1, 2, 3]), terms).await }
    });
    let is_busy = |view: &View| view.status.slots[0].runs_in_flight > 0;
    pool.wait_until(is_busy).await.expect("it runs");
    pool.fault(first, Fault::Exit).await.expect("it ends");
    let answer = asking.await.expect("no panic").expect("an answer");
    assert!(answer.provenance.simulated);
    assert_ne!(answer.provenance.browser_id, first.to_string());
    assert_eq!(answer.provenance.tried.len(), 1, "{:?}", answer.provenance.tried);
    local.stop().await;
}
