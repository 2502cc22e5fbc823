//! Model files that are damaged or incomplete: the other models are served, and errors name the broken one and the
//! reason.

use std::{fs, path::Path};

use flotilla_tests::{command::flotilla, daemon::Daemon, model};
use serde_json::json;

/// A broken model next to a good one: `/healthz` and a request to it must contain `says`, and the good one answers.
fn check(good: &Path, broken: &Path, says: &[&str]) {
    let name = broken.file_name().expect("a name").to_string_lossy().into_owned();
    let (good, broken) = (good.display().to_string(), broken.display().to_string());
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &good, &broken]);
    let health = daemon.get("/healthz");
    assert_eq!(health.status, 503, "{}", health.text);
    let health = health.json();
    assert_eq!(health["status"], "degraded", "{health}");
    let entry =
        health["models"].as_array().expect("models").iter().find(|model| model["id"] == *name);
    let words = entry.expect("the broken model")["error"].as_str().expect("a reason").to_owned();
    let answer = daemon.embed(&name, json!([1, 2, 3]));
    assert_eq!(answer.status, 404, "{}", answer.text);
    let message = answer.error();
    for part in says {
        assert!(words.contains(part), "{words:?} does not say {part:?}");
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    assert_eq!(daemon.embed("good", json!([1, 2, 3])).status, 200);
    let names = daemon.get("/v1/models").ok();
    assert_eq!(names["data"].as_array().map(Vec::len), Some(1), "{names}");
}

#[test]
fn truncated_weights_do_not_disturb_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = model::small(folder.path(), "good");
    let weights = fs::read(good.join("model.safetensors")).expect("weights");
    // In the middle of the data, in the middle of the header, and before it.
    for (name, length) in [("cut-data", weights.len() / 2), ("cut-header", 100), ("cut-length", 3)]
    {
        let broken = model::small(folder.path(), name);
        fs::write(broken.join("model.safetensors"), &weights[..length]).expect("written");
        check(&good, &broken, &["model.safetensors"]);
    }
}

#[test]
fn a_flipped_bit_is_found_by_the_manifest() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = model::small(folder.path(), "good");
    let pulled = folder.path().join("pulled");
    let (from, to) = (good.display().to_string(), pulled.display().to_string());
    let output = flotilla(folder.path(), &["pull", &from, "--to", &to], &[]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(pulled.join("flotilla.json").is_file(), "{output:?}");

    let mut weights = fs::read(pulled.join("model.safetensors")).expect("weights");
    let last = weights.len() - 1;
    weights[last - 1000] ^= 1;
    fs::write(pulled.join("model.safetensors"), weights).expect("written");
    check(&good, &pulled, &["model.safetensors", "manifest", "pull the model again"]);

    // Pulling it again repairs it.
    let output = flotilla(folder.path(), &["pull", &from, "--to", &to], &[]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &to]);
    assert_eq!(daemon.embed("pulled", json!([1, 2, 3])).status, 200);
}

#[test]
fn hostile_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = model::small(folder.path(), "good");
    let broken = model::small(folder.path(), "config-is-text");
    fs::write(broken.join("config.json"), "not JSON").expect("written");
    check(&good, &broken, &["config.json"]);

    let broken = model::small(folder.path(), "unknown-architecture");
    fs::write(broken.join("config.json"), r#"{"model_type": "perceptron"}"#).expect("written");
    check(&good, &broken, &["perceptron"]);

    // A header that claims to be longer than any file.
    let broken = model::small(folder.path(), "endless-header");
    fs::write(broken.join("model.safetensors"), [0xff; 64]).expect("written");
    check(&good, &broken, &["model.safetensors"]);

    let broken = folder.path().join("onnx-is-text");
    fs::create_dir(&broken).expect("a folder");
    fs::write(broken.join("model.onnx"), "not protobuf").expect("written");
    check(&good, &broken, &["onnx"]);
}

#[test]
fn without_a_tokenizer_token_ids_are_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &small]);
    let answer = daemon.embed("small", "some text");
    assert_eq!(answer.status, 400, "{}", answer.text);
    let message = answer.error();
    for part in ["tokenizer.json", "token ids", "small"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(answer.json()["error"]["code"], "no_tokenizer");
    let answer = daemon.embed("small", json!([3, 1, 4])).ok();
    assert_eq!(model::embeddings(&answer)[0].len(), 32);
    let longest = vec![1; model::SMALL_TOKENS_MAX];
    assert_eq!(daemon.embed("small", json!(longest)).status, 200);
    let too_long = vec![1; model::SMALL_TOKENS_MAX + 1];
    assert_eq!(daemon.embed("small", json!(too_long)).status, 400);
    let outside = daemon.embed("small", json!([model::SMALL_VOCABULARY]));
    assert_eq!(outside.status, 400, "{}", outside.text);
}

#[test]
fn a_daemon_without_any_model_does_not_start() {
    let home = tempfile::tempdir().expect("a folder");
    let empty = home.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    let empty = empty.display().to_string();
    let serve = ["serve", "--port", "0", "--simulate", "chrome=1"];
    for (models, says) in [
        (vec!["--models", empty.as_str()], "is not a model"),
        (vec!["--models", "/no/such/folder"], "/no/such/folder"),
        (vec![], "flotilla pull"),
    ] {
        let output = flotilla(home.path(), &[&serve, models.as_slice()].concat(), &[]);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains(says), "{output:?}");
    }
}
