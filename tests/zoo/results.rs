//! Stored outcomes, a file for each model, so that an interrupted run continues where it stopped.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::{models::Model, outcome::Outcome};

/// The inputs on which an outcome depends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// blake3 over the model and its data sets.
    pub(crate) model: String,
    /// Identifies the program that ran it.
    pub(crate) program: String,
}

/// An outcome and the inputs on which it depends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    stamp: Stamp,
    #[serde(flatten)]
    outcome: Outcome,
}

/// The stored outcomes of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) model: String,
    pub(crate) group: String,
    /// By the name of the runtime.
    outcomes: BTreeMap<String, Kept>,
}

impl Stored {
    /// Whether there is an outcome with the same inputs as one of now would have.
    pub(crate) fn holds(&self, runtime: &str, stamp: &Stamp) -> bool {
        self.outcomes.get(runtime).is_some_and(|kept| kept.stamp == *stamp)
    }

    /// Stores an outcome, or that there is none.
    pub(crate) fn keep(&mut self, runtime: &str, stamp: &Stamp, outcome: Option<Outcome>) {
        match outcome {
            Some(outcome) => {
                let kept = Kept { stamp: stamp.clone(), outcome };
                self.outcomes.insert(runtime.to_owned(), kept);
            }
            None => {
                self.outcomes.remove(runtime);
            }
        }
    }

    /// How the model ended there.
    pub(crate) fn outcome(&self, runtime: &str) -> Option<&Outcome> {
        self.outcomes.get(runtime).map(|kept| &kept.outcome)
    }

    /// Without the outcomes of other runtimes.
    #[must_use]
    pub(crate) fn of(mut self, runtimes: &[&str]) -> Stored {
        self.outcomes.retain(|runtime, _| runtimes.contains(&runtime.as_str()));
        self
    }
}

/// The folder of these files.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    folder: PathBuf,
}

impl Results {
    /// Makes the folder if it does not exist.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Results> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Results { folder: folder.to_owned() })
    }

    /// The stored outcomes of a model; empty if there is no file of this format.
    pub(crate) fn read(&self, model: &Model) -> Stored {
        let text = fs::read(self.path(&model.name)).unwrap_or_default();
        let outcomes = serde_json::from_slice::<Stored>(&text).map(|stored| stored.outcomes);
        Stored {
            model: model.name.clone(),
            group: model.group.clone(),
            outcomes: outcomes.unwrap_or_default(),
        }
    }

    /// Stores it, atomically.
    pub(crate) fn write(&self, stored: &Stored) -> anyhow::Result<()> {
        let path = self.path(&stored.model);
        let aside = path.with_extension("aside");
        let text = serde_json::to_string_pretty(stored)? + "\n";
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn path(&self, model: &str) -> PathBuf {
        self.folder.join(format!("{model}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Status;

    #[test]
    fn an_outcome_counts_for_the_same_model_and_program() {
        let folder = tempfile::tempdir().expect("a folder");
        let results = Results::open(&folder.path().join("results")).expect("a folder");
        let model = Model {
            name: "a".to_owned(),
            group: "text".to_owned(),
            file: PathBuf::new(),
            sets: Vec::new(),
        };
        let stamp = |program: &str| Stamp { model: "m".to_owned(), program: program.to_owned() };
        let outcome = Outcome::broken(Status::Refused, "no");
        let mut stored = results.read(&model);
        assert!(!stored.holds("native-cpu", &stamp("1")));
        stored.keep("native-cpu", &stamp("1"), Some(outcome.clone()));
        stored.keep("chrome-cpu", &stamp("1"), Some(outcome.clone()));
        results.write(&stored).expect("written");
        let mut read = results.read(&model);
        assert_eq!(read, stored);
        assert!(read.holds("native-cpu", &stamp("1")) && !read.holds("native-cpu", &stamp("2")));
        assert_eq!(read.outcome("native-cpu"), Some(&outcome));
        read.keep("native-cpu", &stamp("2"), None);
        assert_eq!(read.outcome("native-cpu"), None);
        assert_eq!(stored.of(&["native-cpu"]).outcome("chrome-cpu"), None);
        fs::write(folder.path().join("results/a.json"), "{").expect("a file");
        assert_eq!(results.read(&model).outcome("chrome-cpu"), None);
    }
}
