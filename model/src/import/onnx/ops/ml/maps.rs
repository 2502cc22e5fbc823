//! Operators on maps. A program has tensors only: the maps of a `ZipMap` are given as the scores that they were made of, and
//! operators that read maps are refused.

use anyhow::{Result, bail, ensure};
use flotilla_program::dim::Dim;

use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("CastMap", |_| bail!("it reads a map, and a program has only tensors")),
    ("DictVectorizer", |_| bail!("it reads a map, and a program has only tensors")),
    ("ZipMap", zip_map),
];

/// The scores `[rows, classes]`: column `i` belongs to the label `i` of the attribute.
fn zip_map(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let ints = w.ints("classlabels_int64s")?.map_or(0, |labels| labels.len());
    let texts = w.texts("classlabels_strings")?.map_or(0, |labels| labels.len());
    ensure!((ints == 0) != (texts == 0), "it has {ints} labels that are numbers and {texts} texts");
    let shape = match w.shape(x).as_slice() {
        [classes] => [Dim::Fixed(1), classes.clone()],
        [rows, classes] => [rows.clone(), classes.clone()],
        other => bail!("{} dimensions, scores have two", other.len()),
    };
    w.same("the scores and the labels of a row", &shape[1], &Dim::Fixed((ints + texts) as i64))?;
    Ok(vec![w.reshape(x, &shape)?])
}
