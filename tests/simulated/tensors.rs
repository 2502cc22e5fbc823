//! Tensors that are larger than what the pool may hold of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flotilla::{
    browser::Kind,
    catalog::Catalog,
    local::{Local, LocalOptions},
    pool::Input,
};
use flotilla_program::Unary;
use flotilla_protocol::{Backend, Tensor};
use flotilla_tests::{model, place};

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Clients that ask at once, and requests of each.
const CLIENTS: usize = 3;
const REQUESTS: usize = 4;
/// Most bytes of results that wait, and the sizes of tensors beside it.
const RESULTS_BYTES_MAX: usize = 1 << 20;
const SIZES: [usize; 3] = [1 << 10, RESULTS_BYTES_MAX - 4096, 12 << 20];

#[tokio::test(flavor = "multi_thread")]
async fn tensors_beyond_the_budget_wait_and_are_answered() {
    let mut catalog = Catalog::default();
    let negation = catalog
        .add_program("negation", model::elementwise("negation", Unary::Neg), BTreeMap::new())
        .expect("a program");
    let options = LocalOptions {
        simulated: true,
        backends: vec![Backend::Cpu],
        guardian: Some(place::binary()),
        results_bytes_max: RESULTS_BYTES_MAX,
        ..LocalOptions::of([Kind::Chrome, Kind::Firefox])
    };
    let local = Local::start(&options, Arc::new(catalog), 0).await.expect("a pool");
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let pool = local.pool.clone();
        clients.spawn(async move {
            for request in 0..REQUESTS {
                let length = SIZES[(client + request) % SIZES.len()] / 4;
                let first = (client * REQUESTS + request) as f32;
                let values: Vec<f32> = (0..length).map(|at| first + at as f32).collect();
                let input = Tensor::from_f32(vec![length], &values).expect("a tensor");
                let answer = pool.run(negation, Input::Tensors(vec![input]), ANSWER_MAX).await;
                let outputs = answer.expect("an answer").outputs;
                let got = outputs[0].to_f32().expect("floats");
                assert!(
                    got.iter().zip(&values).all(|(got, value)| *got == -value),
                    "{client} {request}"
                );
                assert_eq!(got.len(), length);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("a client");
    }
    local.stop().await;
}
