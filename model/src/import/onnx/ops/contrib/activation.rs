//! Activations, most of them after a bias.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{
    Binary::{Add, Lt, Max, Min, Mul, Sub},
    Step, Unary,
    dim::Dim,
};

use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("BiasAdd", bias_add),
    ("BiasGelu", |w| biased(w, Unary::GeluErf)),
    ("BiasSoftmax", bias_softmax),
    ("BiasSplitGelu", bias_split_gelu),
    ("FastGelu", |w| biased(w, Unary::GeluTanh)),
    ("Gelu", |w| biased(w, Unary::GeluErf)),
    ("QuickGelu", quick_gelu),
];

/// The factor in the approximation of GELU by a sigmoid.
/// Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2.
const QUICK: f32 = 1.702;

/// A function of the sum of one or two operands.
fn biased(w: &mut Wiring<'_, '_>, function: Unary) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let sum = with_bias(w, x, w.optional(1))?;
    Ok(vec![w.unary(function, sum)?])
}

/// `x + bias`, where the bias is a row for the last dimension.
pub(super) fn with_bias(w: &mut Wiring<'_, '_>, x: Var, bias: Option<Var>) -> Result<Var> {
    let Some(bias) = bias else { return Ok(x) };
    let shape = w.shape(x);
    let last = shape.last().context("its operand has no dimension")?;
    ensure!(w.rank(bias) == 1, "the bias has {} dimensions, one is needed", w.rank(bias));
    w.same("the sizes of the bias and of the last dimension", last, &w.dim(bias, 0))?;
    w.add(x, bias)
}

/// `x + bias + skip`.
fn bias_add(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, bias, skip) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let sum = with_bias(w, x, Some(bias))?;
    Ok(vec![w.add(sum, skip)?])
}

/// `x * sigmoid(alpha * x)`.
fn quick_gelu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let alpha = w.float("alpha")?.unwrap_or(QUICK);
    let alpha = w.scalar(w.dtype(x), f64::from(alpha));
    let inner = w.mul(x, alpha)?;
    let weight = w.unary(Unary::Sigmoid, inner)?;
    Ok(vec![w.mul(x, weight)?])
}

/// The first half of the features times GELU of the second one, after a bias.
fn bias_split_gelu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, bias) = (w.input(0)?, w.input(1)?);
    let sum = with_bias(w, x, Some(bias))?;
    let axis = w.rank(x) - 1;
    let width = w.number(&w.dim(x, axis))?;
    ensure!(width.is_multiple_of(2), "{width} features have no two halves");
    let half = width / 2;
    let left = w.slice(sum, axis, 0, half)?;
    let right = w.slice(sum, axis, half, width)?;
    let gate = w.unary(Unary::GeluErf, right)?;
    Ok(vec![w.mul(left, gate)?])
}

/// Softmax over the dimensions from an axis, after a bias. `is_inner_broadcast` tells only which dimensions of the bias are 1.
fn bias_softmax(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, bias) = (w.input(0)?, w.input(1)?);
    w.ignore(&["is_inner_broadcast"]);
    let rank = w.rank(x);
    let axis = w.axis(w.int("axis")?.unwrap_or(1), rank)?;
    ensure!(w.rank(bias) <= rank, "a bias of {} dimensions for {rank}", w.rank(bias));
    let sum = w.add(x, bias)?;
    let axes: Vec<usize> = (axis..rank).collect();
    Ok(vec![w.softmax(sum, &axes)?])
}

/// The activation that a fused operator names, with its parameters in the order alpha, beta.
pub(super) fn activated(
    w: &mut Wiring<'_, '_>,
    x: Var,
    name: &str,
    parameters: &[f32],
) -> Result<Var> {
    let (usual, count): ([f32; 2], usize) = match name {
        "LeakyRelu" => ([0.01, 0.0], 1),
        "Clip" => ([f32::MIN, f32::MAX], 2),
        "HardSigmoid" => ([0.2, 0.5], 2),
        "Elu" => ([1.0, 0.0], 1),
        "" | "Relu" | "Sigmoid" | "Tanh" | "Softplus" => ([0.0, 0.0], 0),
        other => bail!("activation {other:?} is not known"),
    };
    ensure!(
        parameters.len() <= count,
        "activation {name:?} has at most {count} parameters, {} are given",
        parameters.len()
    );
    let at = |index: usize| parameters.get(index).copied().unwrap_or(usual[index]);
    let (alpha, beta) = (at(0), at(1));
    let steps = match name {
        "" => return Ok(x),
        "Relu" => return w.unary(Unary::Relu, x),
        "Sigmoid" => return w.unary(Unary::Sigmoid, x),
        "Tanh" => return w.unary(Unary::Tanh, x),
        "Softplus" => return w.unary(Unary::Softplus, x),
        "LeakyRelu" => vec![
            Step::Input(0),
            Step::Float(alpha),
            Step::Binary(Mul, 0, 1),
            Step::Float(0.0),
            Step::Binary(Lt, 0, 3),
            Step::Select(4, 2, 0),
        ],
        "Elu" => vec![
            Step::Input(0),
            Step::Unary(Unary::Exp, 0),
            Step::Float(1.0),
            Step::Binary(Sub, 1, 2),
            Step::Float(alpha),
            Step::Binary(Mul, 3, 4),
            Step::Float(0.0),
            Step::Binary(Lt, 0, 6),
            Step::Select(7, 5, 0),
        ],
        "Clip" => vec![
            Step::Input(0),
            Step::Float(alpha),
            Step::Binary(Max, 0, 1),
            Step::Float(beta),
            Step::Binary(Min, 2, 3),
        ],
        "HardSigmoid" => vec![
            Step::Input(0),
            Step::Float(alpha),
            Step::Binary(Mul, 0, 1),
            Step::Float(beta),
            Step::Binary(Add, 2, 3),
            Step::Float(0.0),
            Step::Binary(Max, 4, 5),
            Step::Float(1.0),
            Step::Binary(Min, 6, 7),
        ],
        other => bail!("activation {other:?} is not known"),
    };
    w.expr(steps, &[x], w.dtype(x))
}

/// A width that an attribute divides, as a number.
pub(super) fn divided(w: &Wiring<'_, '_>, what: &str, width: &Dim, by: usize) -> Result<usize> {
    let width = w.number(width)?;
    ensure!(
        by > 0 && width > 0 && width.is_multiple_of(by),
        "{what} are {width} wide, which {by} does not divide"
    );
    Ok(width / by)
}
