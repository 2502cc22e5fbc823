//! Operators that prepare features.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{Binary, ReduceKind, Step, Test, Unary, dim::Dim};
use flotilla_tensor::DType;

use super::rows;
use crate::import::onnx::{
    constant::Constant,
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("ArrayFeatureExtractor", array_feature_extractor),
    ("Binarizer", binarizer),
    ("FeatureVectorizer", feature_vectorizer),
    ("Imputer", imputer),
    ("Normalizer", normalizer),
    ("Scaler", scaler),
];

/// Elements of the last dimension.
fn array_feature_extractor(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, indices) = (w.input(0)?, w.input(1)?);
    let count = w.shape(indices).iter().product();
    let indices = w.reshape(indices, &[count])?;
    let rank = w.rank(x);
    let picked = w.gather(rank.saturating_sub(1), x, indices)?;
    Ok(vec![if rank == 1 { w.unsqueeze(picked, 0)? } else { picked }])
}

/// 1 above a threshold, else 0.
fn binarizer(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let dtype = w.dtype(x);
    let threshold = f64::from(w.float("threshold")?.unwrap_or(0.0));
    // An integer is above a number if it is above the integer below that number.
    let threshold = if dtype.is_float() { threshold } else { threshold.floor() };
    let threshold = w.scalar(dtype, threshold);
    let above = w.binary(Binary::Gt, x, threshold)?;
    Ok(vec![w.cast(above, dtype)?])
}

/// The number of features in the last dimension, for an attribute with one number or one for each feature.
fn per_feature<T>(w: &mut Wiring<'_, '_>, x: Var, numbers: &[T], what: &str) -> Result<usize> {
    ensure!(!numbers.is_empty(), "{what} is missing");
    if numbers.len() > 1 {
        let rank = w.rank(x);
        ensure!(rank > 0, "{} numbers in {what} for an operand without dimensions", numbers.len());
        let features = w.dim(x, rank - 1);
        w.same(&format!("the features and {what}"), &features, &Dim::Fixed(numbers.len() as i64))?;
    }
    Ok(numbers.len())
}

/// `(x - offset) * scale`.
fn scaler(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let offset = w.floats("offset")?.unwrap_or_default();
    let scale = w.floats("scale")?.unwrap_or_default();
    per_feature(w, x, &offset, "offset")?;
    per_feature(w, x, &scale, "scale")?;
    let x = w.cast(x, DType::F32)?;
    let offset = w.known(Constant::f32s(&[offset.len()], &offset));
    let scale = w.known(Constant::f32s(&[scale.len()], &scale));
    let shifted = w.sub(x, offset)?;
    Ok(vec![w.mul(shifted, scale)?])
}

/// Each row divided by its norm; a row whose norm is 0 stays as it is. The norm MAX is the largest element, with its sign.
fn normalizer(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let shape = w.shape(w.input(0)?);
    let (x, _, _) = rows(w)?;
    let norm = match w.text("norm")?.unwrap_or("MAX") {
        "MAX" => w.reduce(ReduceKind::Max, x, &[1], true)?,
        "L1" => {
            let size = w.unary(Unary::Abs, x)?;
            w.reduce(ReduceKind::Sum, size, &[1], true)?
        }
        "L2" => {
            let square = w.unary(Unary::Square, x)?;
            let sum = w.reduce(ReduceKind::Sum, square, &[1], true)?;
            w.unary(Unary::Sqrt, sum)?
        }
        other => bail!("norm {other:?} is not known"),
    };
    let steps = vec![
        Step::Input(0),
        Step::Input(1),
        Step::Float(0.0),
        Step::Binary(Binary::Eq, 1, 2),
        Step::Binary(Binary::Div, 0, 1),
        Step::Select(3, 0, 4),
    ];
    let y = w.expr(steps, &[x, norm], DType::F32)?;
    Ok(vec![w.reshape(y, &shape)?])
}

/// Elements that are equal to a number, or not a number, replaced by one for all features or by one for each.
fn imputer(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let dtype = w.dtype(x);
    let floats = w.floats("imputed_value_floats")?.unwrap_or_default();
    let ints = w.ints("imputed_value_int64s")?.unwrap_or_default();
    ensure!(
        floats.is_empty() != ints.is_empty(),
        "imputed_value_floats has {} numbers and imputed_value_int64s has {}",
        floats.len(),
        ints.len()
    );
    ensure!(
        dtype.is_float() == ints.is_empty(),
        "features of type {dtype:?} and replacements of another kind"
    );
    let (missing, filling) = if dtype.is_float() {
        per_feature(w, x, &floats, "imputed_value_floats")?;
        let replaced = w.float("replaced_value_float")?.unwrap_or(0.0);
        let test = match replaced.is_nan() {
            true => vec![Step::Input(0), Step::Test(Test::Nan, 0)],
            false => {
                let equal = Step::Binary(Binary::Eq, 0, 1);
                vec![Step::Input(0), Step::Float(replaced), equal]
            }
        };
        let missing = w.expr(test, &[x], DType::Bool)?;
        let filling = w.known(Constant::f32s(&[floats.len()], &floats));
        (missing, w.cast(filling, dtype)?)
    } else {
        per_feature(w, x, &ints, "imputed_value_int64s")?;
        let replaced = w.integer(w.int("replaced_value_int64")?.unwrap_or(0));
        let replaced = w.cast(replaced, dtype)?;
        let missing = w.binary(Binary::Eq, x, replaced)?;
        let filling = w.known(Constant::i64s(&[ints.len()], &ints));
        (missing, w.cast(filling, dtype)?)
    };
    Ok(vec![w.select(missing, filling, x)?])
}

/// The features of all operands one after the other, each operand cut or filled with zeros to its number of features.
fn feature_vectorizer(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let operands = w.all_inputs()?;
    let given = w.ints("inputdimensions")?;
    let wanted = given.context("inputdimensions is missing")?;
    ensure!(
        wanted.len() == operands.len() && !operands.is_empty(),
        "{} operands and {} inputdimensions",
        operands.len(),
        wanted.len()
    );
    let mut parts = Vec::new();
    for (&x, &wanted) in operands.iter().zip(&wanted) {
        ensure!(wanted >= 0, "{wanted} features of an operand");
        let shape = match w.shape(x).as_slice() {
            [] => bail!("an operand has no dimension"),
            [features] => [Dim::Fixed(1), features.clone()],
            [rows, features @ ..] => [rows.clone(), features.iter().product()],
        };
        let x = w.cast(x, DType::F32)?;
        let mut x = w.reshape(x, &shape)?;
        let features = w.number(&shape[1])? as i64;
        if features > wanted {
            x = w.slice(x, 1, 0, wanted)?;
        }
        parts.push(x);
        if features < wanted {
            let zero = w.scalar(DType::F32, 0.0);
            let missing = [shape[0].clone(), Dim::Fixed(wanted - features)];
            parts.push(w.broadcast_to(zero, &missing)?);
        }
    }
    Ok(vec![w.concat(1, &parts)?])
}
