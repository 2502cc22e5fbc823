//! The same models with onnxruntime-web, in a page of Chrome that stays open; its outputs are compared as `flotilla check`
//! compares.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use flotilla_check::{recorded, reference};
use flotilla_model::golden::{Golden, Names};
use flotilla_reference::compare::{self, Difference, Tolerance};
use serde_json::Value;

use crate::{
    models::Model,
    outcome::{Outcome, Status},
    page::{Ended, Job, Page, Place, Ran, WORKER},
    results::Stamp,
    runtime::{Named as _, Provider},
};

/// The package below the folder in which it is installed, and the files that pages load from it.
const PACKAGE: &str = "node_modules/onnxruntime-web";
pub(crate) const DIST: &str = "node_modules/onnxruntime-web/dist";
/// The sources that decide whether outputs are right.
const COMPARISON: [&str; 2] = [
    include_str!("../../reference/src/compare.rs"),
    include_str!("../../reference/src/arithmetic.rs"),
];
/// Failed starts of the browser in a row before the run is given up.
const STARTS_MAX: usize = 3;

/// Runs models with onnxruntime-web.
pub(crate) struct Theirs {
    place: Place,
    limit: Duration,
    program: String,
    page: Option<Page>,
}

/// The version of the package that is installed in a folder; `unknown` if there is none.
pub(crate) fn version(folder: &Path) -> String {
    let text = fs::read(folder.join(PACKAGE).join("package.json")).unwrap_or_default();
    let package: Value = serde_json::from_slice(&text).unwrap_or_default();
    package["version"].as_str().unwrap_or("unknown").to_owned()
}

impl Theirs {
    /// `version` is that of the package.
    pub(crate) fn new(place: Place, version: &str, limit: Duration) -> Theirs {
        let mut hasher = blake3::Hasher::new();
        for text in COMPARISON.iter().chain([&WORKER]) {
            hasher.update(text.as_bytes());
        }
        let program =
            format!("{version}, {}, {}", hasher.finalize().to_hex(), place.adapter.name());
        Theirs { place, limit, program, page: None }
    }

    /// The inputs on which an outcome of this model depends: its own files, the package, and how it is run and compared.
    pub(crate) fn stamp(&self, model: &Model) -> anyhow::Result<Stamp> {
        Ok(Stamp { model: model.hash()?, program: self.program.clone() })
    }

    /// Runs a model on all of its data sets. A page that hangs or dies is an outcome; the next model gets another page.
    pub(crate) async fn check(
        &mut self,
        model: &Model,
        provider: Provider,
    ) -> anyhow::Result<Outcome> {
        let (tolerance, sets) = read(model).with_context(|| model.name.clone())?;
        let mut page = match self.page.take() {
            Some(page) => page,
            None => self.open().await?,
        };
        let job = Job { provider: provider.name(), model: model.file.clone(), sets: sets.clone() };
        let browser = Some(page.browser.clone());
        let outcome = match page.run(job, self.limit).await {
            Ok(ended) => {
                self.page = Some(page);
                match ended {
                    Ended::Refused(reason) => Outcome::broken(Status::Refused, &reason),
                    Ended::Failed(reason) => Outcome::broken(Status::Fail, &reason),
                    Ended::Ran(ran) => judged(&ran, &sets, &tolerance),
                }
            }
            Err(error) => {
                page.end().await;
                Outcome::broken(Status::Fail, &format!("{error:#}"))
            }
        };
        Ok(Outcome { browser, ..outcome })
    }

    async fn open(&self) -> anyhow::Result<Page> {
        let mut started = Page::open(&self.place).await;
        for _ in 1..STARTS_MAX {
            let Err(error) = &started else { break };
            eprintln!("the browser did not start, and is started again: {error:#}");
            started = Page::open(&self.place).await;
        }
        started
    }

    /// Ends the browser.
    pub(crate) async fn end(&mut self) {
        if let Some(page) = self.page.take() {
            page.end().await;
        }
    }
}

/// The tolerance for a model's outputs, and its data sets.
fn read(model: &Model) -> anyhow::Result<(Tolerance, Arc<[Golden]>)> {
    let file = reference::onnx(&model.file)?;
    let owned = |name: &str| name.to_owned();
    let mut sets = Vec::new();
    for set in &model.sets {
        let names = || {
            let (inputs, outputs) = (file.inputs().map(owned), file.outputs().map(owned));
            anyhow::Ok(Names { inputs: inputs.collect(), outputs: outputs.collect() })
        };
        sets.extend(recorded::read(set, names)?.into_iter().map(|recorded| recorded.golden));
    }
    Ok((Tolerance::of(file.precision(None)), sets.into()))
}

fn judged(ran: &Ran, sets: &[Golden], tolerance: &Tolerance) -> Outcome {
    let mut all = Difference::default();
    let mut reason = None;
    for (number, (got, want)) in ran.sets.iter().zip(sets).enumerate() {
        let compared = compare::compare(got, &want.outputs, tolerance);
        let words = match compared {
            Ok(difference) => {
                let words = difference.wrong.as_ref().map(ToString::to_string);
                all = all.and(difference);
                words
            }
            Err(error) => Some(error.to_string()),
        };
        reason = reason.or(words.map(|words| match number {
            0 => words,
            _ => format!("data set {number}: {words}"),
        }));
    }
    let finite = |number: f64| Some(number).filter(|number| number.is_finite());
    let outcome = Outcome::broken(Status::Fail, reason.as_deref().unwrap_or_default());
    let is_right = reason.is_none();
    Outcome {
        status: if is_right { Status::Pass } else { Status::Fail },
        reason: outcome.reason.filter(|_| !is_right),
        max_abs_err: finite(all.max_abs),
        max_rel_err: finite(all.max_rel),
        adapter: ran.adapter.clone(),
        load_ms: Some(ran.load_ms),
        first_ms: Some(ran.first_ms),
        run_ms: Some(ran.run_ms),
        ..outcome
    }
}

#[cfg(test)]
mod tests {
    use flotilla_tensor::{NamedTensor, Tensor};

    use super::*;

    #[test]
    fn every_data_set_must_be_right() {
        let golden = |number: f32| Golden {
            inputs: Vec::new(),
            outputs: vec![NamedTensor::new(
                "a",
                Tensor::from_f32(vec![1], &[number]).expect("fits"),
            )],
        };
        let ran = |numbers: [f32; 2]| Ran {
            adapter: None,
            load_ms: 3.0,
            first_ms: 2.0,
            run_ms: 1.0,
            sets: numbers.map(|number| golden(number).outputs).to_vec(),
        };
        let sets = [golden(1.0), golden(2.0)];
        let right = judged(&ran([1.0, 2.0]), &sets, &Tolerance::default());
        assert_eq!((right.status, right.reason, right.run_ms), (Status::Pass, None, Some(1.0)));
        let wrong = judged(&ran([1.0, 3.0]), &sets, &Tolerance::default());
        assert_eq!((wrong.status, wrong.max_abs_err), (Status::Fail, Some(1.0)));
        assert!(wrong.reason.is_some_and(|reason| reason.starts_with("data set 1: output a[0]")));
        let nothing = Ran { sets: vec![Vec::new(); 2], ..ran([0.0, 0.0]) };
        assert_eq!(judged(&nothing, &sets, &Tolerance::default()).status, Status::Fail);
    }
}
