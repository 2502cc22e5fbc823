//! Products of matrices with what optimizers fuse into them.

use anyhow::{Result, bail, ensure};
use flotilla_program::{Unary, dim::ToDim as _};

use super::{
    activation::{activated, with_bias},
    standard::reused,
};
use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("ComplexMul", |w| complex_mul(w, false)),
    ("ComplexMulConj", |w| complex_mul(w, true)),
    ("FusedGemm", fused_gemm),
    ("FusedMatMul", fused_matmul),
    ("FusedMatMulActivation", fused_matmul_activation),
    ("GemmFastGelu", gemm_fast_gelu),
    ("TransposeMatMul", fused_matmul),
];

fn fused_matmul(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    Ok(vec![product(w)?])
}

/// `alpha * a @ b`, each possibly with rows and columns, or rows and stacks, exchanged.
fn product(w: &mut Wiring<'_, '_>) -> Result<Var> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    let (a, b) = (stacked(w, a, "transBatchA")?, stacked(w, b, "transBatchB")?);
    let a = if w.flag("transA")? { columns_first(w, a)? } else { a };
    let product = match (w.flag("transB")?, w.rank(a) > 1 && w.rank(b) > 1) {
        (true, true) => w.matmul_transposed(a, b)?,
        _ => w.matmul(a, b)?,
    };
    let alpha = w.float("alpha")?.unwrap_or(1.0);
    if alpha == 1.0 {
        return Ok(product);
    }
    let alpha = w.scalar(w.dtype(product), f64::from(alpha));
    w.mul(product, alpha)
}

/// `[rows, stacks.., columns]` to `[stacks.., rows, columns]`, if the attribute says so.
fn stacked(w: &mut Wiring<'_, '_>, x: Var, attribute: &str) -> Result<Var> {
    let rank = w.rank(x);
    if !w.flag(attribute)? || rank < 3 {
        return Ok(x);
    }
    let order: Vec<usize> = (1..rank - 1).chain([0, rank - 1]).collect();
    w.transpose(x, &order)
}

/// With the last two dimensions exchanged; a row stays as it is.
fn columns_first(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let rank = w.rank(x);
    if rank < 2 {
        return Ok(x);
    }
    let order: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
    w.transpose(x, &order)
}

fn fused_matmul_activation(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let product = product(w)?;
    let name = w.text("activation")?.unwrap_or_default();
    let parameters = parameters(w, name)?;
    w.ignore(&["activation_axis"]);
    Ok(vec![activated(w, product, name, &parameters)?])
}

/// The attributes of an activation, as many as it has.
fn parameters(w: &Wiring<'_, '_>, name: &str) -> Result<Vec<f32>> {
    w.ignore(&["activation_gamma"]);
    let (alpha, beta) = (w.float("activation_alpha")?, w.float("activation_beta")?);
    let count = match name {
        "LeakyRelu" | "Elu" => 1,
        "HardSigmoid" => 2,
        _ => 0,
    };
    match (alpha, beta) {
        (Some(alpha), Some(beta)) if count == 2 => Ok(vec![alpha, beta]),
        (None, Some(_)) if count == 2 => bail!("activation_beta is given without activation_alpha"),
        (Some(alpha), _) if count > 0 => Ok(vec![alpha]),
        _ => Ok(Vec::new()),
    }
}

fn fused_gemm(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let product = reused(w, "Gemm")?[0];
    let name = w.text("activation")?.unwrap_or_default();
    let parameters = parameters(w, name)?;
    Ok(vec![activated(w, product, name, &parameters)?])
}

fn gemm_fast_gelu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, weights) = (w.input(0)?, w.input(1)?);
    let product = w.matmul(x, weights)?;
    let sum = with_bias(w, product, w.optional(2))?;
    Ok(vec![w.unary(Unary::GeluTanh, sum)?])
}

/// Products of complex numbers, whose last dimension has the real and the imaginary part; of the first one with the conjugate of
/// the second one.
fn complex_mul(w: &mut Wiring<'_, '_>, conjugates: bool) -> Result<Vec<Var>> {
    let mut parts = Vec::new();
    let mut axis = 0;
    for index in 0..2 {
        let x = w.input(index)?;
        let rank = w.rank(x);
        ensure!(rank > 0, "operand {index} has no dimension");
        w.same("the last dimension and 2", &w.dim(x, rank - 1), &2.to_dim())?;
        axis = axis.max(rank - 1);
        parts.push((w.slice(x, rank - 1, 0, 1)?, w.slice(x, rank - 1, 1, 2)?));
    }
    let ((real, imaginary), (other_real, other_imaginary)) = (parts[0], parts[1]);
    let (kept, crossed) = (w.mul(real, other_real)?, w.mul(imaginary, other_imaginary)?);
    let (left, right) = (w.mul(imaginary, other_real)?, w.mul(real, other_imaginary)?);
    let (real, imaginary) = match conjugates {
        true => (w.add(kept, crossed)?, w.sub(left, right)?),
        false => (w.sub(kept, crossed)?, w.add(left, right)?),
    };
    Ok(vec![w.concat(axis, &[real, imaginary])?])
}
