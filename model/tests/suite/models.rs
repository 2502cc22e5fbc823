//! The models that the tests use.

use std::{
    fs,
    path::{Path, PathBuf},
};

use flotilla_model::import::MemoryResolver;

/// Files of a small model that is stored with the sources.
pub(crate) fn small(name: &str, files: &[&str]) -> MemoryResolver {
    folder(&repository().join("tests/models").join(name), files)
}

/// The small BERT as a Hugging Face directory.
pub(crate) fn hf_bert() -> MemoryResolver {
    small("bert", &["config.json", "model.safetensors"])
}

/// A small Hugging Face folder that is stored with the sources, or one with an ONNX file, such as `hf/bert`.
pub(crate) fn whole(name: &str) -> MemoryResolver {
    let root = repository().join("tests/models").join(name);
    let mut resolver = MemoryResolver::default();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("kept with the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).expect("below").to_string_lossy().into_owned();
            resolver.files.insert(name, fs::read(&path).expect("a file").into());
        }
    }
    resolver
}

/// The folder of all-MiniLM-L6-v2, which setup fetches; `None`, with a note, where it is missing.
pub(crate) fn minilm() -> Option<MemoryResolver> {
    let folder_path = std::env::var_os("FLOTILLA_MINILM")
        .map_or_else(|| repository().join("target/models/all-MiniLM-L6-v2"), PathBuf::from);
    if !folder_path.join("model.safetensors").is_file() {
        eprintln!("skipped: {} has no model; setup fetches it", folder_path.display());
        return None;
    }
    let files = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
    ];
    Some(folder(&folder_path, &files))
}

/// A file next to the small models.
pub(crate) fn read(path: &str) -> Vec<u8> {
    fs::read(repository().join("tests/models").join(path)).expect("kept with the sources")
}

fn folder(path: &Path, files: &[&str]) -> MemoryResolver {
    let read = |file: &&str| Some(((*file).to_owned(), fs::read(path.join(file)).ok()?.into()));
    MemoryResolver { files: files.iter().filter_map(read).collect() }
}

fn repository() -> PathBuf {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|path| path.join("tests/models").is_dir());
    found.expect("the sources lie in the repository").to_owned()
}
