//! Models that are added and removed while a daemon serves.

use std::sync::atomic::{AtomicBool, Ordering};

use flotilla_tests::{
    daemon::Daemon,
    model::{self, embeddings},
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
    let blobs = flotilla::catalog::Catalog::open(std::slice::from_ref(&small)).blobs;
    let blob = format!("/blobs/{}", blobs.keys().next().expect("a blob").to_hex());
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
fn nobody_waits_for_a_model_that_goes() {
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
            // Until somebody has had an answer.
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
