//! Losses over classes.

use anyhow::{Result, bail};
use flotilla_program::{Binary, GatherElements, Op, ReduceKind, Unary};
use flotilla_tensor::DType;

use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("NegativeLogLikelihoodLoss", negative_log_likelihood),
    ("SoftmaxCrossEntropyLoss", softmax_cross_entropy),
];

/// Logarithms of probabilities are `[batch, classes, ..]`, targets `[batch, ..]`.
fn negative_log_likelihood(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let logs = w.input(0)?;
    Ok(vec![loss(w, logs)?])
}

fn softmax_cross_entropy(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let scores = w.input(0)?;
    let logs = w.log_softmax(scores, &[1])?;
    Ok(vec![loss(w, logs)?, logs])
}

fn loss(w: &mut Wiring<'_, '_>, logs: Var) -> Result<Var> {
    let (target, weight) = (w.input(1)?, w.optional(2));
    let ignored = w.int("ignore_index")?;
    let reduction = w.text("reduction")?.unwrap_or("mean").to_owned();
    let dtype = w.dtype(logs);
    let target = w.cast(target, DType::I64)?;
    let zero = w.scalar(dtype, 0.0);

    // An ignored class need not be one of the classes.
    let ignored = match ignored {
        Some(index) => {
            let index = w.integer(index);
            Some(w.binary(Binary::Eq, target, index)?)
        }
        None => None,
    };
    let class = match ignored {
        Some(ignored) => {
            let first = w.integer(0);
            w.select(ignored, first, target)?
        }
        None => target,
    };
    let column = w.unsqueeze(class, 1)?;
    let gather = Op::GatherElements(GatherElements { axis: 1 });
    let picked = w.op(gather, &[logs, column], dtype, w.shape(column))?;
    let picked = w.squeeze(picked, 1)?;
    let mut losses = w.unary(Unary::Neg, picked)?;

    let counted = match (weight, ignored) {
        (None, None) => None,
        (weight, ignored) => {
            let one = w.scalar(dtype, 1.0);
            let share = match weight {
                Some(weight) => w.gather(0, weight, class)?,
                None => one,
            };
            let share = match ignored {
                Some(ignored) => w.select(ignored, zero, share)?,
                None => share,
            };
            losses = w.mul(losses, share)?;
            Some(share)
        }
    };
    let axes: Vec<usize> = (0..w.rank(losses)).collect();
    match reduction.as_str() {
        "none" => Ok(losses),
        "sum" => w.reduce(ReduceKind::Sum, losses, &axes, false),
        "mean" => {
            let Some(counted) = counted else {
                return w.reduce(ReduceKind::Mean, losses, &axes, false);
            };
            let sum = w.reduce(ReduceKind::Sum, losses, &axes, false)?;
            let count = w.reduce(ReduceKind::Sum, counted, &axes, false)?;
            w.div(sum, count)
        }
        other => bail!("reduction {other:?} is not known"),
    }
}
