//! Models that are added and removed while a daemon serves.

use std::sync::atomic::{AtomicBool, Ordering};

use flotilla::{
    catalog::{Catalog, Serving},
    weights::{Blob, WeightFiles},
};
use flotilla_tests::{
    daemon::Daemon,
    model::{self, embeddings},
    onnx::{FLOAT, INT64, Sketch, integer},
};
use serde_json::{Value, json};

/// Longest wait for pages to load or to free a model.
const CHANGE_MAX: std::time::Duration = std::time::Duration::from_secs(60);
/// Times that a model comes and goes while clients ask for it.
const ROUNDS: usize = 10;

/// Names of the models that browsers hold, one for each placement.
fn placed(pool: &Value) -> Vec<String> {
    let browsers = pool["browsers"].as_array().expect("browsers").iter();
    let placements = browsers.flat_map(|browser| browser["placements"].as_array().expect("a list"));
    placements.map(|placement| placement["model"].as_str().unwrap_or("?").to_owned()).collect()
}

fn delete(daemon: &Daemon, name: &str) -> flotilla_tests::http::Answer {
    daemon.request("DELETE", &format!("/api/models/{name}"), &[], None)
}

#[test]
fn models_come_and_go_while_serving() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small");
    let base = model::small(folder.path(), "base").display().to_string();
    let catalog = Catalog::open(std::slice::from_ref(&small));
    let blob =
        format!("/blobs/{}", catalog.models[0].blobs.keys().next().expect("a blob").to_hex());
    let daemon = Daemon::ready(&["--simulate", "chrome=1,firefox=1", "--models", &base]);
    assert_eq!(daemon.embed("small", json!([1, 2, 3])).status, 404);

    let added = daemon.post("/api/models", &json!({ "path": small }));
    assert_eq!(added.status, 201, "{}", added.text);
    let added = added.json();
    assert_eq!((&added["id"], &added["object"]), (&json!("small"), &json!("model")));
    assert_eq!(added["inputs"][0]["name"], "input_ids");
    // Before a browser has it.
    let before = embeddings(&daemon.embed("small", json!([1, 2, 3])).ok());
    daemon.wait_pool("model on both browsers", CHANGE_MAX, |pool| {
        let mut names = placed(pool);
        names.sort();
        (names == ["base", "base", "small", "small"]).then_some(())
    });
    let all = daemon.get("/api/models").ok();
    let names: Vec<&Value> =
        all["data"].as_array().expect("models").iter().map(|model| &model["id"]).collect();
    assert_eq!(names, ["base", "small"]);
    assert_eq!(daemon.get("/api/models/small").ok()["state"], "ready");
    assert_eq!(daemon.get("/healthz").ok()["models"].as_array().map(Vec::len), Some(2));
    assert_eq!(daemon.get("/v1/models/small").status, 200);

    assert_eq!(delete(&daemon, "small").ok()["deleted"], true);
    assert_eq!(daemon.embed("small", json!([1, 2, 3])).status, 404);
    for path in ["/api/models/small", "/v1/models/small"] {
        assert_eq!(daemon.get(path).status, 404, "{path}");
    }
    assert_eq!(daemon.get(&blob).status, 200, "the other model has the same weights");
    assert_eq!(delete(&daemon, "small").status, 404);
    daemon.wait_pool("pages without the model", CHANGE_MAX, |pool| {
        (placed(pool) == ["base", "base"]).then_some(())
    });
    assert_eq!(daemon.embed("base", json!([1, 2, 3])).status, 200);

    let again = daemon.post("/api/models", &json!({ "path": small, "name": "other" }));
    assert_eq!((again.status, &again.json()["id"]), (201, &json!("other")));
    assert_eq!(embeddings(&daemon.embed("other", json!([1, 2, 3])).ok()), before);
    // The last one may go, too.
    for name in ["base", "other"] {
        assert_eq!(delete(&daemon, name).ok()["deleted"], true);
    }
    assert_eq!(daemon.get(&blob).status, 404);
    assert_eq!(daemon.get("/api/models").ok()["data"], json!([]));
    assert_eq!(daemon.get("/healthz").status, 503);
}

#[test]
fn models_that_cannot_be_added_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.onnx");
    std::fs::write(&broken, b"no model").expect("written");
    std::fs::create_dir(folder.path().join("empty")).expect("made");
    let base = model::small(folder.path(), "base").display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &base]);
    for (body, status, code) in [
        (json!({ "path": base }), 409, "model_exists"),
        (json!({ "path": folder.path().join("nothing") }), 404, "not_a_model"),
        (json!({ "path": folder.path().join("empty") }), 404, "not_a_model"),
        (json!({ "name": "nothing" }), 404, "not_a_model"),
        (json!({ "path": broken }), 422, "model_refused"),
        (json!({ "name": "../x" }), 400, "invalid_name"),
        (json!({ "path": base, "name": "x", "dims": { "batch": -1 } }), 400, "invalid_dims"),
        (json!({}), 400, "missing_path"),
        (json!({ "pth": base }), 400, "invalid_json"),
    ] {
        let answer = daemon.post("/api/models", &body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        assert!(!answer.error().is_empty());
        assert_eq!(answer.json()["error"]["code"], code, "{body}");
    }
    assert_eq!(daemon.get("/api/models").ok()["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(daemon.embed("base", json!([1, 2, 3])).status, 200);
}

#[test]
fn requests_for_a_removed_model_fail_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small");
    let base = model::small(folder.path(), "base").display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1,firefox=1", "--models", &base]);
    let ended = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answered = 0;
                    while !ended.load(Ordering::Relaxed) {
                        let answer = daemon.embed("small", json!([1, 2, 3]));
                        match answer.status {
                            200 => answered += 1,
                            404 => assert_eq!(answer.json()["error"]["code"], "model_not_found"),
                            _ => panic!("{}", answer.text),
                        }
                    }
                    answered
                })
            })
            .collect();
        for _ in 0..ROUNDS {
            assert_eq!(daemon.post("/api/models", &json!({ "path": small })).status, 201);
            // Until a client has an answer.
            daemon.embed("small", json!([4, 5])).ok();
            assert_eq!(delete(&daemon, "small").status, 200);
        }
        ended.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("a client")).sum::<usize>()
    });
    assert!(answered > 0, "no client was answered");
    daemon.wait_pool("pages without the model", CHANGE_MAX, |pool| {
        (placed(pool) == ["base", "base"]).then_some(())
    });
}

/// A model whose table of 2 MiB is as pages need it, in a file beside it, and whose matrix of 1 MiB they need transposed.
fn with_large_weights(folder: &std::path::Path) -> std::path::PathBuf {
    let (rows, width) = (1024, 512);
    let bytes = |count: usize, seed: u32| -> Vec<u8> {
        let numbers = (0..count as u32).map(|at| ((at * 7 + seed) % 113) as f32 / 1e3 - 0.05);
        numbers.flat_map(f32::to_le_bytes).collect()
    };
    let table = bytes(rows * width, 1);
    let model = folder.join("large.onnx");
    let length = table.len().to_string();
    // At no multiple of an element's size.
    let entries = [("location", "large.bin"), ("offset", "13"), ("length", &*length)];
    let keeps = [integer("keepdims", 0)];
    let sketch = Sketch::new(18)
        .input_of(INT64, "input_ids", &[-1, -1])
        .output("sentence_embedding", &[-1, width as i64])
        .external("table", &[rows as i64, width as i64], &entries)
        .initializer("w", FLOAT, &[width as i64, width as i64], &bytes(width * width, 5))
        .initializer("axes", INT64, &[1], &1i64.to_le_bytes())
        .node("Gather", &["table", "input_ids"], &["rows"])
        .node_with("", "ReduceMean", &["rows", "axes"], &["mean"], &keeps)
        .node("Transpose", &["w"], &["turned"])
        .node("MatMul", &["mean", "turned"], &["sentence_embedding"]);
    std::fs::write(&model, sketch.bytes()).expect("written");
    std::fs::write(folder.join("large.bin"), [&[0; 13], &table[..], b"rest"].concat())
        .expect("written");
    model
}

#[test]
fn weights_are_served_from_the_models_own_files_where_they_are_there_as_needed() {
    let (folder, home) = (tempfile::tempdir(), tempfile::tempdir());
    let (folder, home) = (folder.expect("a folder"), home.expect("a folder"));
    let path = with_large_weights(folder.path());
    let serving =
        Serving { weights: Some(WeightFiles::new(home.path(), 1 << 30)), ..Serving::default() };
    let kept = Catalog::open_for(std::slice::from_ref(&path), &serving);
    let in_memory = Catalog::open(std::slice::from_ref(&path));
    let (kept, in_memory) = (&kept.models[0], &in_memory.models[0]);
    assert_eq!(kept.program_hash, in_memory.program_hash);
    assert!(kept.blobs.keys().eq(in_memory.blobs.keys()));
    for (id, blob) in &kept.blobs {
        let Blob::File { modified, bytes, .. } = blob else { panic!("{blob:?}") };
        assert_eq!(modified.is_some(), *bytes == 2 << 20, "{blob:?}");
        let read = blob.read(0, *bytes as usize).expect("read");
        assert_eq!(blake3::hash(&read).as_bytes(), &id.0);
        assert_eq!(read, in_memory.blobs[id].read(0, *bytes as usize).expect("read"));
    }
    let weights: Vec<u64> = std::fs::read_dir(home.path().join("weights"))
        .expect("a folder")
        .map(|file| file.expect("a file").metadata().expect("a file").len())
        .collect();
    assert!(matches!(weights[..], [1_048_576..1_100_000]), "{weights:?}");
}

#[test]
fn weights_of_a_file_that_was_changed_are_not_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = with_large_weights(folder.path());
    let models = path.display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome", "--models", &models]);
    let before = embeddings(&daemon.embed("large", json!([1, 2, 3])).ok());
    let catalog = Catalog::open(std::slice::from_ref(&path));
    let table = catalog.models[0].blobs.iter().find(|(_, blob)| blob.bytes() == 2 << 20);
    let table = format!("/blobs/{}", table.expect("the table").0.to_hex());
    assert_eq!(daemon.get(&table).status, 200);
    let weights = std::fs::File::options().write(true).open(folder.path().join("large.bin"));
    weights.expect("opened").set_modified(std::time::SystemTime::UNIX_EPOCH).expect("marked");
    let refused = daemon.get(&table);
    assert_eq!(refused.status, 409, "{}", refused.text);
    assert!(refused.text.contains("was changed after it was imported"), "{}", refused.text);
    // Pages that have it go on.
    assert_eq!(embeddings(&daemon.embed("large", json!([1, 2, 3])).ok()), before);
}
