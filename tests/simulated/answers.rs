//! The answers to valid requests.

use std::{
    collections::BTreeSet,
    sync::{Arc, Barrier},
};

use base64::Engine as _;
use flotilla_tests::{
    command::flotilla,
    daemon::Daemon,
    model::{self, MINILM, difference, embeddings},
};
use serde_json::{Value, json};

/// Largest difference from PyTorch's numbers.
const TOLERANCE: f32 = 1e-5;
const POOL: &str = "chrome=1,firefox=1";

#[test]
fn embeddings_are_those_of_pytorch() {
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let daemon = Daemon::ready(&["--simulate", POOL, "--models", &minilm]);
    let references = model::references();
    assert_eq!(references.len(), 7);
    let texts: Vec<&str> = references.iter().map(|row| row.text.as_str()).collect();
    let ids: Vec<&[u32]> = references.iter().map(|row| row.input_ids.as_slice()).collect();

    let all = json!({ "model": MINILM, "input": texts });
    check(&daemon.post("/v1/embeddings", &all).ok(), &references);
    let all =
        json!({ "model": MINILM, "input": ids, "encoding_format": "float", "user": "somebody" });
    check(&daemon.post("/v1/embeddings", &all).ok(), &references);
    for row in &references {
        check(&daemon.embed(MINILM, row.text.as_str()).ok(), std::slice::from_ref(row));
        check(&daemon.embed(MINILM, row.input_ids.clone()).ok(), std::slice::from_ref(row));
    }

    let all = json!({ "model": MINILM, "input": texts, "encoding_format": "base64" });
    let answer = daemon.post("/v1/embeddings", &all).ok();
    for (got, row) in answer["data"].as_array().expect("rows").iter().zip(&references) {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(got["embedding"].as_str().expect("text"))
            .expect("base64");
        let (chunks, rest) = bytes.as_chunks::<4>();
        assert!(rest.is_empty());
        let values: Vec<f32> = chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
        assert!(difference(&values, &row.embedding) <= TOLERANCE, "{:?}", row.text);
    }
}

/// Checks numbers, usage, and provenance.
fn check(answer: &Value, want: &[model::Reference]) {
    let got = embeddings(answer);
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        let difference = difference(got, &want.embedding);
        assert!(difference <= TOLERANCE, "{:?} differs by {difference}", want.text);
    }
    let tokens: usize = want.iter().map(|row| row.input_ids.len()).sum();
    assert_eq!(answer["usage"], json!({ "prompt_tokens": tokens, "total_tokens": tokens }));
    assert_eq!(answer["model"], MINILM);
    assert_eq!(answer["simulated"], true);
    assert!(answer["flotilla"]["daemon_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{answer}");
    for run in runs(answer) {
        assert_eq!(run["simulated"], true, "{run}");
        assert_eq!(run["backend"], "cpu", "{run}");
        assert_eq!(run["tried"], json!([]), "{run}");
        assert_eq!(run["fallback"], Value::Null, "{run}");
        assert!(run["run_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{run}");
        assert!(run["browser"] == "chrome" || run["browser"] == "firefox", "{run}");
    }
}

/// With sizes that are fixed at load, rows are padded to them, and at most as many are joined as
/// fit.
#[test]
fn fixed_sizes_change_no_answer() {
    const CLIENTS: usize = 12;
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let serve = ["--simulate", "chrome=1", "--models", &small];
    let open = Daemon::ready(&serve);
    let wants: Vec<Value> =
        (0..CLIENTS).map(|at| open.embed("small", ids(at)).ok()["data"].clone()).collect();
    let fixed = [&serve[..], &["--dim", "B=4", "--dim", "S=16", "--batch-delay", "50"]].concat();
    let daemon = Arc::new(Daemon::ready(&fixed));
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|at| {
            let (daemon, barrier) = (daemon.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                daemon.embed("small", ids(at)).ok()
            })
        })
        .collect();
    for (client, want) in clients.into_iter().zip(&wants) {
        let answer = client.join().expect("an answer");
        let want = model::floats(&want[0]["embedding"]);
        assert!(difference(&embeddings(&answer)[0], &want) <= TOLERANCE, "{answer}");
        assert!(runs(&answer)[0]["rows"].as_u64() <= Some(4), "{answer}");
    }
    let long = daemon.embed("small", vec![1u32; 17]);
    assert_eq!(long.status, 400, "{long:?}");
    assert!(long.json()["error"]["message"].as_str().is_some_and(|text| text.contains("16")));
    // A name that the model does not have.
    let unknown = [&["serve"], &serve[..], &["--port", "0", "--dim", "seq=16"]].concat();
    let output = flotilla(folder.path(), &unknown, &[]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(output.stderr.contains(r#"is called seq; there are ["B", "S"]"#), "{output:#?}");
}

/// Some tokens of the small model.
fn ids(at: usize) -> Vec<u32> {
    (0..3 + at as u32).map(|token| 5 + token * 7 % 150).collect()
}

fn runs(answer: &Value) -> &[Value] {
    answer["flotilla"]["runs"].as_array().expect("runs")
}

#[test]
fn requests_that_arrive_together_share_runs_on_both_browsers() {
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let daemon = Arc::new(Daemon::ready(&["--simulate", POOL, "--models", &minilm]));
    daemon.wait_all_ready();
    const CLIENTS: usize = 32;
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|index| {
            let (daemon, barrier) = (daemon.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                // Rows of different lengths share a run only with padding.
                daemon.embed(MINILM, model::row(index, 8 + index)).ok()
            })
        })
        .collect();
    let answers: Vec<Value> =
        clients.into_iter().map(|client| client.join().expect("an answer")).collect();

    let browsers: BTreeSet<&str> =
        answers.iter().flat_map(runs).filter_map(|run| run["browser_id"].as_str()).collect();
    assert_eq!(browsers.len(), 2, "one browser did everything: {browsers:?}");
    let shared = answers.iter().flat_map(runs).filter_map(|run| run["rows"].as_u64()).max();
    assert!(shared > Some(1), "no run has more than one row");
    // Neighbours and padding do not change the result.
    for (index, answer) in answers.iter().enumerate() {
        let alone = daemon.embed(MINILM, model::row(index, 8 + index)).ok();
        assert_eq!(runs(&alone)[0]["rows"], 1);
        let difference = difference(&embeddings(answer)[0], &embeddings(&alone)[0]);
        assert!(difference <= TOLERANCE, "row {index} differs by {difference}");
    }
    drop(Arc::into_inner(daemon).expect("no other user"));
}

#[test]
fn one_program_answers_every_shape() {
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &minilm]);
    for (rows, length) in [(1, 3), (3, 16), (8, 128)] {
        let input: Vec<Vec<u32>> = (0..rows).map(|seed| model::row(seed, length)).collect();
        let answer = daemon.embed(MINILM, json!(input)).ok();
        assert_eq!(embeddings(&answer).len(), rows);
        assert_eq!(runs(&answer).len(), 1, "{answer}");
        assert_eq!(runs(&answer)[0]["rows"], rows);
        assert_eq!(runs(&answer)[0]["pipelines_created"], 0);
    }
}

#[test]
fn several_models_are_served_at_once() {
    let Some(minilm) = model::minilm() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    model::small(folder.path(), "small-a");
    model::small(folder.path(), "small-b");
    let parent = folder.path().display().to_string();
    let minilm = minilm.display().to_string();
    let daemon = Daemon::ready(&["--simulate", POOL, "--models", &minilm, &parent]);
    daemon.wait_all_ready();

    let models = daemon.get("/v1/models").ok();
    assert_eq!(models["object"], "list");
    let mut names: Vec<&str> = Vec::new();
    for model in models["data"].as_array().expect("a list") {
        assert_eq!(model["object"], "model");
        assert!(model["created"].as_u64() > Some(1_600_000_000), "{model}");
        assert!(model["owned_by"].is_string(), "{model}");
        names.push(model["id"].as_str().expect("a name"));
        assert_eq!(daemon.get(&format!("/v1/models/{}", names[names.len() - 1])).ok(), *model);
    }
    assert_eq!(names, [MINILM, "small-a", "small-b"]);

    let health = daemon.get("/healthz").ok();
    assert_eq!(health["status"], "ok");
    for model in health["models"].as_array().expect("a list") {
        assert_eq!(model["ready"], 2, "{health}");
    }

    let ids = model::row(1, 12);
    let small: Vec<u32> = ids.iter().map(|id| id % model::SMALL_VOCABULARY).collect();
    for (name, ids, size) in [(MINILM, &ids, 384), ("small-a", &small, 32), ("small-b", &small, 32)]
    {
        let answer = daemon.embed(name, ids.clone()).ok();
        assert_eq!(answer["model"], name);
        assert_eq!(embeddings(&answer)[0].len(), size);
    }
}
