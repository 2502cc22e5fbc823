//! The domain `ai.onnx.ml`: the estimators and transformers of classic machine learning. Source of every operator: ONNX,
//! "ai.onnx.ml Operator Schemas". Where the standard leaves a result open, it is the one that onnxruntime gives.

mod categories;
mod coupling;
mod features;
mod linear;
mod maps;
mod post_transform;
mod support_vectors;
#[cfg(test)]
mod tests;
mod trees;

use anyhow::{Result, bail, ensure};
use flotilla_program::{ArgReduce, Op, dim::Dim};
use flotilla_tensor::DType;

use crate::import::onnx::{
    constant::Constant,
    facts::{Strings, Var},
    wiring::{Wire, Wiring},
};

/// The families of the domain.
pub(super) const FAMILIES: &[&[(&str, Wire)]] = &[
    categories::OPERATORS,
    features::OPERATORS,
    linear::OPERATORS,
    maps::OPERATORS,
    support_vectors::OPERATORS,
    trees::OPERATORS,
];

/// What a classifier answers with.
enum Labels {
    Ints(Vec<i64>),
    Texts(Vec<String>),
}

impl Labels {
    /// The attribute `ints` or `classlabels_strings`; exactly one has to be given.
    fn of(w: &Wiring<'_, '_>, ints: &str) -> Result<Labels> {
        let numbers = w.ints(ints)?.filter(|labels| !labels.is_empty());
        let texts = w.texts("classlabels_strings")?.filter(|labels| !labels.is_empty());
        match (numbers, texts) {
            (Some(_), Some(_)) => bail!("it has both {ints} and classlabels_strings"),
            (Some(numbers), None) => Ok(Labels::Ints(numbers)),
            (None, Some(texts)) => {
                Ok(Labels::Texts(texts.into_iter().map(str::to_owned).collect()))
            }
            (None, None) => bail!("it has neither {ints} nor classlabels_strings"),
        }
    }

    fn count(&self) -> usize {
        match self {
            Labels::Ints(labels) => labels.len(),
            Labels::Texts(labels) => labels.len(),
        }
    }

    /// The labels at indices.
    fn at(self, w: &mut Wiring<'_, '_>, indices: Var) -> Result<Var> {
        match self {
            Labels::Ints(labels) if labels.iter().copied().eq(0..labels.len() as i64) => {
                w.cast(indices, DType::I64)
            }
            Labels::Ints(labels) => {
                let labels = w.known(Constant::i64s(&[labels.len()], &labels));
                w.gather(0, labels, indices)
            }
            Labels::Texts(labels) => {
                let indices = w.cast(indices, DType::I64)?;
                Ok(w.walk.strings_at(indices, Strings::from(labels)))
            }
        }
    }
}

/// Rows of features as `[rows, features]` in F32; one dimension is one row.
fn rows(w: &mut Wiring<'_, '_>) -> Result<(Var, Dim, Dim)> {
    let x = w.input(0)?;
    let shape = match w.shape(x).as_slice() {
        [features] => [Dim::Fixed(1), features.clone()],
        [rows, features] => [rows.clone(), features.clone()],
        other => bail!("{} dimensions, rows of features have two", other.len()),
    };
    ensure!(w.dtype(x) != DType::Bool, "its features are truth values");
    let x = w.cast(x, DType::F32)?;
    let x = w.reshape(x, &shape)?;
    let [rows, features] = shape;
    Ok((x, rows, features))
}

/// The product of rows with a table that has a line for each column of the result.
fn weighted(
    w: &mut Wiring<'_, '_>,
    x: Var,
    table: &[f32],
    lines: usize,
    what: &str,
) -> Result<Var> {
    let columns = table.len().checked_div(lines).unwrap_or(0);
    ensure!(
        columns > 0 && columns * lines == table.len(),
        "{} {what} for {lines} lines of features",
        table.len()
    );
    let given = w.dim(x, 1);
    w.same(&format!("the features and those of its {what}"), &given, &Dim::Fixed(columns as i64))?;
    let turned = transposed(table, lines, columns);
    let turned = w.known(Constant::f32s(&[columns, lines], &turned));
    w.matmul(x, turned)
}

/// The elements of `[lines, columns]` in the order of `[columns, lines]`.
fn transposed(table: &[f32], lines: usize, columns: usize) -> Vec<f32> {
    let places = (0..columns).flat_map(|column| (0..lines).map(move |line| (line, column)));
    places.map(|(line, column)| table[line * columns + column]).collect()
}

/// A row of numbers that is added to each row.
fn shifted(w: &mut Wiring<'_, '_>, x: Var, numbers: &[f32]) -> Result<Var> {
    let numbers = w.known(Constant::f32s(&[1, numbers.len()], numbers));
    w.add(x, numbers)
}

/// The column of the largest number of each row, the first one of equal ones: `[rows]`.
fn largest(w: &mut Wiring<'_, '_>, scores: Var) -> Result<Var> {
    let rows = w.dim(scores, 0);
    let op = ArgReduce { axis: 1, largest: true, last: false };
    let found =
        w.op(Op::ArgReduce(op), &[scores], DType::I64, vec![rows.clone(), Dim::Fixed(1)])?;
    w.reshape(found, &[rows])
}
