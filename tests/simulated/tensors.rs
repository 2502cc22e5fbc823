//! Tensors that are larger than what the pool may hold of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flotilla::{
    browser::Kind,
    catalog::Catalog,
    local::{Local, LocalOptions},
    pool::{Input, Memory, Settings},
};
use flotilla_program::Unary;
use flotilla_protocol::Backend;
use flotilla_tensor::Tensor;
use flotilla_tests::{model, place};

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Clients that ask at once, and requests of each.
const CLIENTS: usize = 3;
const REQUESTS: usize = 4;
/// Most bytes that wait, and the sizes of tensors beside it.
const BYTES_MAX: usize = 1 << 20;
const SIZES: [usize; 3] = [1 << 10, BYTES_MAX - 4096, 12 << 20];

#[tokio::test(flavor = "multi_thread")]
async fn tensors_beyond_the_budget_wait_and_are_answered() {
    let memory = Memory { results_bytes_max: BYTES_MAX, ..Memory::default() };
    ask(memory, |_| {}).await;
}

/// A browser that has one run at a time never has two frames that wait, so each is sent however large it is.
#[tokio::test(flavor = "multi_thread")]
async fn orders_beyond_the_budget_are_sent_alone_and_answered() {
    let memory = Memory { orders_bytes_max: BYTES_MAX, ..Memory::default() };
    let change = |options: &mut LocalOptions| {
        options.browsers.truncate(1);
        options.fleet.runs_in_flight_max = 1;
    };
    let tried = ask(memory, change).await;
    // A slow machine may have other failed attempts.
    let refused: Vec<&String> =
        tried.iter().filter(|why| why.contains("take its frames")).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// Sends requests of all sizes and checks their answers; returns the failed attempts.
async fn ask(memory: Memory, change: impl FnOnce(&mut LocalOptions)) -> Vec<String> {
    let mut catalog = Catalog::default();
    let negation = catalog
        .add_program("negation", model::elementwise("negation", Unary::Neg), BTreeMap::new())
        .expect("a program");
    let mut options = LocalOptions {
        simulated: true,
        backends: vec![Backend::Cpu].into(),
        guardian: Some(place::binary()),
        pool: Settings { memory, ..Settings::default() },
        ..LocalOptions::of([Kind::Chrome, Kind::Firefox])
    };
    change(&mut options);
    let local = Local::start(&options, Arc::new(catalog), 0).await.expect("a pool");
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let pool = local.pool.clone();
        clients.spawn(async move {
            let mut tried = Vec::new();
            for request in 0..REQUESTS {
                let length = SIZES[(client + request) % SIZES.len()] / 4;
                let first = (client * REQUESTS + request) as f32;
                let values: Vec<f32> = (0..length).map(|at| first + at as f32).collect();
                let input = Tensor::from_f32(vec![length], &values).expect("a tensor");
                let answer = pool.run(negation, Input::Tensors(vec![input]), ANSWER_MAX).await;
                let answer = answer.expect("an answer");
                tried.extend(answer.provenance.tried.iter().cloned());
                let got = answer.outputs[0].to_f32().expect("floats");
                assert!(
                    got.iter().zip(&values).all(|(got, value)| *got == -value),
                    "{client} {request}"
                );
                assert_eq!(got.len(), length);
            }
            tried
        });
    }
    let tried = clients.join_all().await.concat();
    local.stop().await;
    tried
}
