//! The models: one folder for each, as `export.py` writes them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// One model.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// The folder's name.
    pub(crate) name: String,
    /// Its group.
    pub(crate) group: String,
    /// The ONNX file.
    pub(crate) file: PathBuf,
    /// Inputs and right outputs of each data set.
    pub(crate) sets: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct About {
    group: String,
}

/// All models of a folder, by name.
pub(crate) fn list(folder: &Path) -> anyhow::Result<Vec<Model>> {
    let entries = fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    let mut models = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("{}", folder.display()))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let about = path.join("about.json");
        // Next to the models are logs, and models that are not finished.
        let Some(name) = name.filter(|name| !name.starts_with('.') && about.is_file()) else {
            continue;
        };
        let text = fs::read(&about).with_context(|| format!("{}", about.display()))?;
        let About { group } =
            serde_json::from_slice(&text).with_context(|| format!("{}", about.display()))?;
        let sets = sets(&path);
        ensure!(!sets.is_empty(), "{name} has no io.safetensors");
        models.push(Model { name, group, file: path.join("model.onnx"), sets });
    }
    ensure!(!models.is_empty(), "there are no models in {}", folder.display());
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(models)
}

/// `io.safetensors`, `io.1.safetensors`, .. as far as they exist.
fn sets(folder: &Path) -> Vec<PathBuf> {
    let name = |number: usize| match number {
        0 => "io.safetensors".to_owned(),
        _ => format!("io.{number}.safetensors"),
    };
    (0..).map(|number| folder.join(name(number))).take_while(|path| path.is_file()).collect()
}

/// The models with these names; all if there are none.
pub(crate) fn named<'a>(models: &'a [Model], only: &[String]) -> anyhow::Result<Vec<&'a Model>> {
    for pattern in only {
        let found = models.iter().any(|model| matches(pattern, &model.name));
        ensure!(found, "no model is called {pattern}");
    }
    let is_named = |model: &&Model| {
        only.is_empty() || only.iter().any(|pattern| matches(pattern, &model.name))
    };
    Ok(models.iter().filter(is_named).collect())
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => name == pattern,
    }
}

impl Model {
    /// blake3 over the model and its data sets.
    pub(crate) fn hash(&self) -> anyhow::Result<String> {
        hash([&self.file].into_iter().chain(&self.sets))
    }
}

/// blake3 over some files, one after the other.
pub(crate) fn hash<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in files {
        let file = File::open(path).with_context(|| format!("{}", path.display()))?;
        hasher.update_reader(file).with_context(|| format!("{}", path.display()))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, sets) in [("b", 1), ("a2", 2), ("a1", 1)] {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("a folder");
            fs::write(path.join("about.json"), r#"{"group": "text", "opset": 17}"#)
                .expect("a file");
            fs::write(path.join("model.onnx"), name).expect("a file");
            for file in ["io.safetensors", "io.1.safetensors"].iter().take(sets) {
                fs::write(path.join(file), file).expect("a file");
            }
        }
        fs::create_dir(folder.path().join("logs")).expect("a folder");
        let models = list(folder.path()).expect("models");
        let names = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
            let found = named(&models, &only)?;
            anyhow::Ok(found.iter().map(|model| model.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).expect("all"), ["a1", "a2", "b"]);
        assert_eq!(names(&["b", "a*"]).expect("all"), ["a1", "a2", "b"]);
        assert_eq!(names(&["a2"]).expect("one"), ["a2"]);
        assert!(names(&["a"]).is_err());
        assert_eq!((models[1].sets.len(), models[1].group.as_str()), (2, "text"));
        assert_ne!(models[0].hash().expect("files"), models[1].hash().expect("files"));
    }
}
