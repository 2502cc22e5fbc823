//! The library's workers: leased browsers, with limits that are enforced.

use std::{path::PathBuf, sync::Arc, time::Duration};

use flotilla::{
    browser::{Kind, fault::Fault},
    catalog::Catalog,
    local::{Local, LocalOptions},
    pool::{Input, PoolStatus, WorkerError},
};
use flotilla_fleet::{BrowserStage, ModelId, PlacementStage};
use flotilla_tensor::{DType, Tensor};
use flotilla_tests::{
    model,
    onnx::{INT64, Sketch},
};

/// A pool of two simulated browsers with the small model, ready.
async fn pool(change: impl FnOnce(&mut LocalOptions)) -> (Local, ModelId, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small");
    let (local, model) = pool_of(small, change).await;
    (local, model, folder)
}

/// A pool of two simulated browsers with a model, ready.
async fn pool_of(model: PathBuf, change: impl FnOnce(&mut LocalOptions)) -> (Local, ModelId) {
    let catalog = Arc::new(Catalog::open(&[model]));
    let mut options = LocalOptions {
        simulated: true,
        backends: vec![flotilla_protocol::Backend::Cpu].into(),
        ..LocalOptions::of(vec![Kind::Chrome, Kind::Firefox])
    };
    change(&mut options);
    let local = Local::start(&options, catalog.clone(), 0).await.expect("a pool");
    let wanted = options.fleet.redundancy_factor.unwrap_or(2);
    let ready = |view: &flotilla::pool::View| view.status.models.iter().all(|m| m.ready == wanted);
    local.pool.wait_until(ready).await.expect("ready");
    (local, catalog.models[0].id)
}

fn input() -> Input {
    Input::Tokens(vec![1, 2, 3])
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_exclusive_until_it_is_dropped() {
    let (local, model, _folder) = pool(|_| {}).await;
    let pool = local.pool.clone();
    let first = pool.acquire_worker("first").await.expect("a worker");
    let second = pool.acquire_worker("second").await.expect("another");
    assert_ne!(first.browser(), second.browser());
    let status = pool.get_pool_status().await.expect("a pool");
    let want = PoolStatus {
        available_workers: 0,
        total_workers: 2,
        active_tasks: 2,
        active_task_ids: vec!["first".to_owned(), "second".to_owned()],
    };
    assert_eq!(status, want);
    let answer = first.run(model, input(), LONG).await.expect("an answer");
    assert_eq!(answer.provenance.browser_id, first.browser().to_string());

    let mut third = Box::pin(pool.acquire_worker("third"));
    tokio::select! {
        biased;
        third = &mut third => panic!("a third of two: {third:?}"),
        status = pool.get_pool_status() => assert_eq!(status.expect("a pool").active_tasks, 2),
    }
    let freed = first.browser();
    drop(first);
    let third = third.await.expect("the one that was freed");
    assert_eq!(third.browser(), freed);
    drop((second, third));
    local.pool.wait_until(|view| view.status.leases.is_empty()).await.expect("all given back");
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_max_workers() {
    let (local, ..) = pool(|options| {
        options.max_workers = Some(1);
        options.worker_timeout = Some(Duration::from_secs(1));
    })
    .await;
    let first = local.pool.acquire_worker("first").await.expect("a worker");
    let second = local.pool.acquire_worker("second").await;
    // Either it timed out, or it got its turn when the first one's time was over.
    let first_over = first.lost().await;
    assert!(matches!(first_over, WorkerError::WorkerTimeout { .. }), "{first_over}");
    match second {
        Ok(_) | Err(WorkerError::Unavailable { .. }) => {}
        Err(other) => panic!("{other}"),
    }
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_use_the_configured_devices() {
    let (local, ..) = pool(|options| {
        options.devices = Some(vec![Kind::Firefox]);
        options.worker_timeout = Some(Duration::from_secs(1));
    })
    .await;
    let first = local.pool.acquire_worker("first").await.expect("a worker");
    let view = local.pool.view().await.expect("a pool");
    let held = view.status.slots.iter().find(|slot| slot.browser == Some(first.browser()));
    assert_eq!(held.expect("a slot").kind, "firefox");
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_takes_too_long_is_ended() {
    let (local, model, _folder) =
        pool(|options| options.worker_timeout = Some(Duration::from_secs(1))).await;
    let worker = local.pool.acquire_worker("slow").await.expect("a worker");
    local.pool.fault(worker.browser(), Fault::Silence).await.expect("it can be silenced");
    let error = worker.run(model, input(), LONG).await.expect_err("it never answers");
    match &error {
        WorkerError::WorkerTimeout { task, used, allowed } => {
            assert_eq!((task.as_str(), *allowed), ("slow", Duration::from_secs(1)));
            assert!(used >= allowed, "{error}");
        }
        other => panic!("{other}"),
    }
    // The browser is repaired and serves again.
    local
        .pool
        .wait_until(|view| view.status.models.iter().all(|model| model.ready == 2))
        .await
        .expect("repaired");
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_takes_too_much_memory_is_ended() {
    let (local, _model, _folder) =
        pool(|options| options.fleet.memory_bytes_max = Some(1 << 30)).await;
    let worker = local.pool.acquire_worker("hungry").await.expect("a worker");
    local.pool.fault(worker.browser(), Fault::Memory(2000)).await.expect("it can say so");
    match worker.lost().await {
        WorkerError::WorkerMemory { task, used_bytes, allowed_bytes } => {
            assert_eq!((task.as_str(), allowed_bytes), ("hungry", 1 << 30));
            assert!(used_bytes > allowed_bytes, "{used_bytes} bytes");
        }
        other => panic!("{other}"),
    }
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_moves_or_stays_as_it_was() {
    let (local, model, _folder) = pool(|options| options.fleet.redundancy_factor = Some(1)).await;
    let pool = &local.pool;
    let holds = |view: &flotilla::pool::View, slot: usize| {
        view.status.slots[slot]
            .placements
            .iter()
            .any(|placement| placement.state == PlacementStage::Ready)
    };
    let up = |view: &flotilla::pool::View| {
        view.status.slots.iter().all(|s| s.state == BrowserStage::Ready)
    };
    let view = pool.wait_until(up).await.expect("a pool");
    let from = usize::from(!holds(&view, 0));
    let browser = |slot: usize| view.status.slots[slot].browser.expect("a browser");
    // To itself, or to a browser that does not exist: refused, and nothing has changed.
    let refused = pool.migrate(model, browser(from), browser(from)).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(pool.migrate(model, browser(from), flotilla_protocol::BrowserId(99)).await.is_err());
    let after = pool.view().await.expect("a pool");
    assert_eq!(after.status.slots[from].placements, view.status.slots[from].placements);

    pool.migrate(model, browser(from), browser(1 - from)).await.expect("it moves");
    let moved = pool.view().await.expect("a pool");
    assert!(holds(&moved, 1 - from) && !holds(&moved, from), "{:#?}", moved.status.slots);
    let answer = pool.run(model, input(), LONG).await.expect("an answer");
    assert_eq!(answer.provenance.browser_id, browser(1 - from).to_string());
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_contradict_the_model_cost_no_browser_anything() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gather.onnx");
    let sketch = Sketch::default()
        .input("table", &[3])
        .input_of(INT64, "index", &[1])
        .node("Gather", &["table", "index"], &["y"])
        .output("y", &[1]);
    std::fs::write(&file, sketch.bytes()).expect("written");
    let (local, model) = pool_of(file, |_| {}).await;
    let input = |index: i64| {
        let table = [1.0_f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        Input::Tensors(vec![
            Tensor { dtype: DType::F32, shape: vec![3], bytes: table },
            Tensor { dtype: DType::I64, shape: vec![1], bytes: index.to_le_bytes().to_vec() },
        ])
    };
    let browsers = local.pool.view().await.expect("a pool").status.slots;
    for _ in 0..3 {
        let refused =
            local.pool.run(model, input(7), LONG).await.expect_err("there is no such row");
        let words = refused.to_string();
        assert!(words.contains("index 7 is outside of a dimension of 3"), "{words}");
    }
    assert_eq!(local.pool.view().await.expect("a pool").status.slots, browsers);
    let answer = local.pool.run(model, input(1), LONG).await.expect("an answer");
    assert_eq!(answer.outputs[0].bytes, 2.0_f32.to_le_bytes());
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_finish_their_requests_are_disconnected() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (local, ..) =
        pool(|options| options.http.client_timeout = Duration::from_millis(500)).await;
    let host = format!("Host: {}\r\n", local.address);
    let exchange = async |sent: &str| {
        let mut stream = tokio::net::TcpStream::connect(local.address).await.expect("a connection");
        stream.write_all(sent.as_bytes()).await.expect("sent");
        let mut received = String::new();
        let reading = stream.read_to_string(&mut received);
        tokio::time::timeout(LONG, reading).await.expect("the end").expect("text");
        received
    };
    // Nothing, half of a head, and an answer without a following request.
    assert_eq!(exchange("").await, "");
    let half = exchange("POST /v1/embeddings HTTP/1.1\r\nHost:").await;
    assert!(half.is_empty() || half.contains(" 408 "), "{half}");
    let whole = exchange(&format!("GET /v1/models HTTP/1.1\r\n{host}\r\n")).await;
    assert!(whole.starts_with("HTTP/1.1 200"), "{whole}");
    // Half of a body.
    let head = format!("POST /v1/embeddings HTTP/1.1\r\n{host}Content-Length: 100\r\n\r\n{{");
    let body = exchange(&head).await;
    assert!(body.starts_with("HTTP/1.1 408") && body.contains("body_timeout"), "{body}");
    local.stop().await;
}
