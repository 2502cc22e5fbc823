use std::cell::RefCell;
use std::fs;
use std::path::Path;

use super::hub::{Repository, commit, content_length, fetch_from};
use super::*;

fn model_in(folder: &Path) {
    fs::create_dir_all(folder.join("1_Pooling")).expect("folder");
    fs::create_dir_all(folder.join(".git")).expect("folder");
    fs::write(folder.join("model.safetensors"), [7; 1000]).expect("file");
    fs::write(folder.join("1_Pooling/config.json"), "{}").expect("file");
    fs::write(folder.join(".git/HEAD"), "hidden").expect("file");
}

fn entries(folder: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn names_become_repositories() {
    let table = [
        ("all-MiniLM-L6-v2", Some("sentence-transformers/all-MiniLM-L6-v2")),
        ("openai/whisper-tiny.en", Some("openai/whisper-tiny.en")),
        ("", None),
        ("a/b/c", None),
        ("../secret", None),
        ("owner/..", None),
        ("owner/a b", None),
        ("owner/name?x=1", None),
        ("owner/-o", None),
        ("/owner", None),
    ];
    for (text, want) in table {
        assert_eq!(Repository::parse(text).map(|it| it.to_string()).as_deref(), want, "{text}");
    }
}

#[test]
fn the_last_set_of_headers_counts() {
    let hash = "0123456789abcdef0123456789abcdef01234567";
    let headers = format!(
        "HTTP/1.1 302 Found\r\nX-Repo-Commit: {hash}\r\ncontent-length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 77\r\n"
    );
    assert_eq!(content_length(&headers), Some(77));
    assert_eq!(commit(&headers).as_deref(), Some(hash));
    assert_eq!(commit("X-Repo-Commit: ../../etc"), None);
    assert_eq!(content_length(""), None);
}

#[tokio::test]
async fn a_folder_is_copied_with_a_manifest() {
    let place = tempfile::tempdir().expect("folder");
    let (from, to) = (place.path().join("from"), place.path().join("models/tiny"));
    model_in(&from);
    let seen = RefCell::new(Vec::new());
    let progress = |done, total| seen.borrow_mut().push((done, total));
    let pulled = pull(from.to_str().expect("UTF-8"), &to, &progress).await.expect("pulled");
    assert_eq!(entries(&to), ["1_Pooling", "flotilla.json", "model.safetensors"]);
    assert_eq!(pulled.manifest.bytes(), 1002);
    assert!(!pulled.already_there);
    assert_eq!(seen.borrow().last(), Some(&(1002, Some(1002))));
    let manifest = Manifest::read(&to).expect("read").expect("there");
    assert_eq!(manifest, pulled.manifest);
    manifest.verify(&to).expect("undamaged");
    assert_eq!(entries(&place.path().join("models")), ["tiny"], "nothing is left over");
}

/// The address of a hub that has the files of a folder, for any repository.
async fn hub_of(folder: &Path) -> String {
    let folder = folder.to_owned();
    let file = move |path: axum::extract::Path<(String, String, String, String)>| async move {
        let (_, _, _, file) = path.0;
        fs::read(folder.join(file)).map_err(|_| axum::http::StatusCode::NOT_FOUND)
    };
    let route = "/{owner}/{name}/resolve/{revision}/{*file}";
    let router = axum::Router::new().route(route, axum::routing::get(file));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// What is fetched of a repository with these files.
async fn fetched(files: &[(&str, &str)]) -> Result<Vec<String>, PullError> {
    let place = tempfile::tempdir().expect("folder");
    let [from, to, scratch] = ["from", "to", "scratch"].map(|name| place.path().join(name));
    for (file, text) in files {
        let path = from.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(path, text).expect("file");
    }
    for folder in [&to, &scratch] {
        fs::create_dir_all(folder).expect("folder");
    }
    let repository = Repository::parse("owner/name").expect("a name");
    let endpoint = hub_of(&from).await;
    fetch_from(&endpoint, &repository, &to, &scratch, &|_, _| ()).await?;
    Ok(manifest::list(&to).expect("listed"))
}

#[tokio::test]
async fn what_files_name_is_fetched_too() {
    let modules = r#"[
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    ]"#;
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let files = [
        ("1_Pooling/config.json", "{}"),
        ("2_Dense/config.json", "{}"),
        ("2_Dense/model.safetensors", "w"),
        ("config.json", "{}"),
        ("model-00001-of-00002.safetensors", "w"),
        ("model-00002-of-00002.safetensors", "w"),
        ("model.safetensors.index.json", index),
        ("modules.json", modules),
        ("pytorch_model.bin", "p"),
        ("tokenizer.json", "{}"),
    ];
    let mut want = files.map(|(file, _)| file).to_vec();
    want.retain(|file| *file != "pytorch_model.bin");
    assert_eq!(fetched(&files).await.expect("fetched"), want);

    let files = [
        ("config.json", "{}"),
        ("onnx/model.onnx", "o"),
        ("onnx/model.onnx_data", "d"),
        ("onnx/model_fp16.onnx", "o"),
        ("tokenizer.json", "{}"),
    ];
    let want = ["config.json", "onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"];
    assert_eq!(fetched(&files).await.expect("fetched"), want);
}

#[tokio::test]
async fn what_files_name_stays_inside() {
    let outside = r#"{"weight_map": {"a": "../../x"}}"#;
    let error = fetched(&[("model.safetensors.index.json", outside)]).await.expect_err("outside");
    assert!(error.to_string().contains("../../x"), "{error}");
    let outside = r#"[{"path": "/etc", "type": "sentence_transformers.models.Dense"}]"#;
    let error = fetched(&[("modules.json", outside)]).await.expect_err("outside");
    assert!(matches!(error, PullError::Description { .. }), "{error}");
    let error = fetched(&[("pytorch_model.bin", "p")]).await.expect_err("no weights");
    assert!(matches!(error, PullError::Refused { status: 404, .. }), "{error}");
}

#[tokio::test]
async fn python_objects_are_refused() {
    let place = tempfile::tempdir().expect("folder");
    let from = place.path().join("from");
    fs::create_dir(&from).expect("folder");
    fs::write(from.join("pytorch_model.bin"), "p").expect("file");
    let to = place.path().join("to");
    let error = pull(from.to_str().expect("UTF-8"), &to, &|_, _| ()).await.expect_err("refused");
    assert!(matches!(error, PullError::Pickle { .. }), "{error}");
}

#[tokio::test]
async fn a_failed_pull_leaves_the_old_model() {
    let place = tempfile::tempdir().expect("folder");
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    model_in(&to);
    fs::create_dir(&from).expect("folder");
    let error = pull(from.to_str().expect("UTF-8"), &to, &|_, _| ()).await.expect_err("no weights");
    assert!(matches!(error, PullError::NotAModel { .. }), "{error}");
    assert!(to.join("model.safetensors").is_file());
    assert_eq!(entries(place.path()), ["from", "to"]);
}

#[tokio::test]
async fn a_source_that_is_nothing_is_refused() {
    let place = tempfile::tempdir().expect("folder");
    let error =
        pull("no/such/folder", &place.path().join("to"), &|_, _| ()).await.expect_err("nothing");
    assert!(matches!(error, PullError::Source(_)), "{error}");
}

#[test]
fn damage_is_found_and_named() {
    let place = tempfile::tempdir().expect("folder");
    model_in(place.path());
    Manifest::of(place.path(), "test".to_owned())
        .expect("digested")
        .write(place.path())
        .expect("written");
    let verify = || {
        Manifest::read(place.path())
            .and_then(|manifest| manifest.expect("there").verify(place.path()))
    };
    verify().expect("undamaged");
    let weights = place.path().join("model.safetensors");
    let mut flipped = [7; 1000];
    flipped[500] ^= 1;
    for bytes in [&flipped[..], &[7; 999][..]] {
        fs::write(&weights, bytes).expect("file");
        let error = verify().expect_err("damaged");
        assert!(
            matches!(&error, ManifestError::Damaged { path, .. } if *path == weights),
            "{error}"
        );
    }
    fs::remove_file(&weights).expect("removed");
    assert!(matches!(verify(), Err(ManifestError::Io { .. })));
}

#[test]
fn hostile_manifests_are_refused() {
    let place = tempfile::tempdir().expect("folder");
    for file in ["../x", "/etc/passwd", "a//b", "a/../../b", "c:x"] {
        let text =
            format!(r#"{{"source": "x", "files": {{"{file}": {{"blake3": "", "bytes": 0}}}}}}"#);
        fs::write(place.path().join(MANIFEST), text).expect("file");
        let error = Manifest::read(place.path()).expect_err(file);
        assert!(matches!(error, ManifestError::Outside { .. }), "{error}");
    }
    fs::write(place.path().join(MANIFEST), "{").expect("file");
    assert!(matches!(Manifest::read(place.path()), Err(ManifestError::Syntax { .. })));
}
