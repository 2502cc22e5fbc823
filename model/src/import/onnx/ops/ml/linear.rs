//! Linear models.

use anyhow::{Context as _, Result, ensure};
use flotilla_program::{Binary, dim::Dim};
use flotilla_tensor::DType;

use super::{
    Labels, largest,
    post_transform::{PostTransform, Second},
    rows, shifted, weighted,
};
use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("LinearClassifier", linear_classifier), ("LinearRegressor", linear_regressor)];

/// A score for each class; two classes may have one score, which is that of the second class.
fn linear_classifier(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, count, features) = rows(w)?;
    let coefficients = w.floats("coefficients")?.context("coefficients are missing")?;
    let intercepts = w.floats("intercepts")?.unwrap_or_default();
    let labels = Labels::of(w, "classlabels_ints")?;
    let transform = PostTransform::of(w)?;
    // Without intercepts the features decide how many scores there are.
    let scores_len = match intercepts.len() {
        0 => coefficients.len().checked_div(w.number(&features)?).unwrap_or(0),
        given => given,
    };
    ensure!(
        scores_len == labels.count() || (scores_len == 1 && labels.count() == 2),
        "{} labels for {scores_len} scores",
        labels.count()
    );
    let mut scores = weighted(w, x, &coefficients, scores_len, "coefficients")?;
    if !intercepts.is_empty() {
        scores = shifted(w, scores, &intercepts)?;
    }
    if scores_len > 1 {
        let best = largest(w, scores)?;
        let label = labels.at(w, best)?;
        return Ok(vec![label, transform.apply(w, scores)?]);
    }
    ensure!(labels.count() == 2, "a classifier of one class");
    let positive = above(w, scores, 0.0, &count)?;
    let label = labels.at(w, positive)?;
    Ok(vec![label, transform.apply_to_pair(w, scores, Second::Complement)?])
}

/// 1 where the score of a row is above a limit, else 0: `[rows]`.
pub(super) fn above(w: &mut Wiring<'_, '_>, score: Var, limit: f64, rows: &Dim) -> Result<Var> {
    let limit = w.scalar(DType::F32, limit);
    let positive = w.binary(Binary::Gt, score, limit)?;
    let positive = w.cast(positive, DType::I64)?;
    w.reshape(positive, std::slice::from_ref(rows))
}

fn linear_regressor(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, _, _) = rows(w)?;
    let coefficients = w.floats("coefficients")?.context("coefficients are missing")?;
    let intercepts = w.floats("intercepts")?.unwrap_or_default();
    let transform = PostTransform::of(w)?;
    let targets = w.int("targets")?.unwrap_or(1);
    let targets = usize::try_from(targets).with_context(|| format!("{targets} targets"))?;
    ensure!(
        intercepts.is_empty() || intercepts.len() == targets,
        "{} intercepts for {targets} targets",
        intercepts.len()
    );
    let mut y = weighted(w, x, &coefficients, targets, "coefficients")?;
    if !intercepts.is_empty() {
        y = shifted(w, y, &intercepts)?;
    }
    Ok(vec![transform.apply(w, y)?])
}
