//! Operators on each element of quantized tensors with one scale: the numbers are computed as floats and quantized again.

use anyhow::{Context as _, Result, ensure};
use flotilla_program::{Binary, ReduceKind, Unary, dim::Dim};
use flotilla_tensor::DType;

use super::{check_bytes, single_scale, single_zero};
use crate::import::onnx::{
    facts::Var,
    ops::{
        dequantize::dequantized,
        quantize::{Quantized, check_result_scale, check_zero_type, saturated},
    },
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("MulInteger", mul_integer),
    ("QLinearAdd", add),
    ("QLinearConcat", concat),
    ("QLinearLeakyRelu", leaky_relu),
    ("QLinearMul", mul),
    ("QLinearReduceMean", reduce_mean),
    ("QLinearSigmoid", sigmoid),
    ("QLinearSoftmax", softmax),
    ("QLinearWhere", choose),
];

/// A quantized operand with its scale and zero point.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub(super) q: Var,
    pub(super) scale: Var,
    pub(super) zero: Option<Var>,
}

impl Operand {
    /// The operand at `index`, followed by its scale and zero point.
    pub(super) fn of(w: &mut Wiring<'_, '_>, index: usize) -> Result<Operand> {
        let q = w.input(index)?;
        check_bytes(w, q, "an operand")?;
        let scale = single_scale(w, index + 1, "its scale")?;
        let zero = single_zero(w, index + 2, "its zero point", q)?;
        Ok(Operand { q, scale, zero })
    }

    pub(super) fn number(&self, w: &mut Wiring<'_, '_>) -> Result<Var> {
        dequantized(w, self.q, self.scale, self.zero, 0, 1)
    }

    /// `q - zero` as `I32`.
    fn centred(&self, w: &mut Wiring<'_, '_>) -> Result<Var> {
        let q = w.cast(self.q, DType::I32)?;
        match self.zero {
            Some(zero) => {
                let zero = w.cast(zero, DType::I32)?;
                w.sub(q, zero)
            }
            None => Ok(q),
        }
    }
}

/// How a result is quantized: its scale, its zero point and its type.
#[derive(Clone, Copy)]
pub(super) struct Target {
    scale: Var,
    zero: Option<Var>,
    of: Quantized,
}

impl Target {
    /// The scale at `index` and the zero point behind it, of the type of `x`.
    pub(super) fn of(w: &mut Wiring<'_, '_>, index: usize, x: Var) -> Result<Target> {
        let scale = single_scale(w, index, "the scale of the result")?;
        check_result_scale(w, scale)?;
        let zero = single_zero(w, index + 1, "the zero point of the result", x)?;
        Ok(Target { scale, zero, of: Quantized::of(w, x) })
    }

    /// `saturate(round(number / scale) + zero)`.
    pub(super) fn quantized(&self, w: &mut Wiring<'_, '_>, number: Var) -> Result<Var> {
        let scaled = w.div(number, self.scale)?;
        saturated(w, scaled, self.zero, self.of)
    }

    /// `saturate(round(number / scale + zero))`, as onnxruntime's means are rounded.
    pub(super) fn rounded(&self, w: &mut Wiring<'_, '_>, number: Var) -> Result<Var> {
        let scaled = w.div(number, self.scale)?;
        self.shifted(w, scaled)
    }

    /// `saturate(round(scaled + zero))`, as onnxruntime's products are rounded.
    fn shifted(&self, w: &mut Wiring<'_, '_>, scaled: Var) -> Result<Var> {
        let shifted = match self.zero {
            Some(zero) => {
                let zero = w.cast(zero, DType::F32)?;
                w.add(scaled, zero)?
            }
            None => scaled,
        };
        saturated(w, shifted, None, self.of)
    }
}

fn add(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b, to) = pair(w)?;
    // The zero points are one number, which is known when the model is loaded; onnxruntime sums in this order, too.
    let mut fixed = match to.zero {
        Some(zero) => w.cast(zero, DType::F32)?,
        None => w.scalar(DType::F32, 0.0),
    };
    let (mut shift, mut parts) = (None, Vec::new());
    for Operand { q, scale, zero } in [a, b] {
        let scale = w.div(scale, to.scale)?;
        let number = w.cast(q, DType::F32)?;
        parts.push(w.mul(number, scale)?);
        if let Some(zero) = zero {
            let zero = w.cast(zero, DType::F32)?;
            let zero = w.mul(zero, scale)?;
            shift = Some(match shift {
                Some(other) => w.add(other, zero)?,
                None => zero,
            });
        }
    }
    if let Some(shift) = shift {
        fixed = w.sub(fixed, shift)?;
    }
    let mut sum = fixed;
    for part in parts {
        sum = w.add(sum, part)?;
    }
    Ok(vec![saturated(w, sum, None, to.of)?])
}

fn mul(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b, to) = pair(w)?;
    let scale = w.mul(a.scale, b.scale)?;
    let scale = w.div(scale, to.scale)?;
    let (a, b) = (a.centred(w)?, b.centred(w)?);
    let product = w.mul(a, b)?;
    let product = w.cast(product, DType::F32)?;
    let product = w.mul(product, scale)?;
    Ok(vec![to.shifted(w, product)?])
}

/// Two operands of one type and the result's parameters.
fn pair(w: &mut Wiring<'_, '_>) -> Result<(Operand, Operand, Target)> {
    let (a, b) = (Operand::of(w, 0)?, Operand::of(w, 3)?);
    let (left, right) = (w.dtype(a.q), w.dtype(b.q));
    ensure!(left == right, "operands of types {left:?} and {right:?}");
    Ok((a, b, Target::of(w, 6, a.q)?))
}

/// The product of differences to zero points, in 32 bits.
fn mul_integer(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let one = w.scalar(DType::F32, 1.0);
    let operand = |w: &mut Wiring<'_, '_>, index: usize| -> Result<Var> {
        let q = w.input(index)?;
        check_bytes(w, q, "an operand")?;
        let zero = single_zero(w, index + 1, "its zero point", q)?;
        Operand { q, scale: one, zero }.centred(w)
    };
    let (a, b) = (operand(w, 0)?, operand(w, 2)?);
    Ok(vec![w.mul(a, b)?])
}

fn sigmoid(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = Operand::of(w, 0)?;
    let to = Target::of(w, 3, x.q)?;
    let number = x.number(w)?;
    let number = w.unary(Unary::Sigmoid, number)?;
    Ok(vec![to.quantized(w, number)?])
}

fn leaky_relu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let alpha = w.float("alpha")?.unwrap_or(0.01);
    let x = Operand::of(w, 0)?;
    let to = Target::of(w, 3, x.q)?;
    let number = x.number(w)?;
    let (zero, alpha) = (w.scalar(DType::F32, 0.0), w.scalar(DType::F32, f64::from(alpha)));
    let leaked = w.mul(number, alpha)?;
    let positive = w.binary(Binary::Ge, number, zero)?;
    let number = w.select(positive, number, leaked)?;
    Ok(vec![to.quantized(w, number)?])
}

/// Before version 13 of `Softmax` all dimensions from the axis on are normalized together. The weights are integer parts of
/// the largest whole number of output steps in 1, as in onnxruntime.
fn softmax(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let version = w.int("opset")?.context("opset is missing")?;
    let x = Operand::of(w, 0)?;
    let to = Target::of(w, 3, x.q)?;
    let rank = w.rank(x.q);
    ensure!(rank > 0, "an operand of no dimensions");
    let axis = w.int("axis")?.unwrap_or(if version < 13 { 1 } else { -1 });
    let axis = w.axis(axis, rank)?;
    let axes: Vec<usize> = if version < 13 { (axis..rank).collect() } else { vec![axis] };
    let number = x.number(w)?;
    let weights = w.softmax(number, &axes)?;
    let one = w.scalar(DType::F32, 1.0);
    let steps = w.div(one, to.scale)?;
    let steps = w.unary(Unary::Floor, steps)?;
    let scaled = w.mul(weights, steps)?;
    Ok(vec![saturated(w, scaled, to.zero, to.of)?])
}

/// Each operand has its own scale.
fn concat(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let count = w.inputs_len();
    ensure!(
        count >= 5 && (count - 2).is_multiple_of(3),
        "{count} operands; after the scale and zero point of the result there must be three for each tensor"
    );
    let axis = w.int("axis")?.context("axis is missing")?;
    let first = w.input(2)?;
    let to = Target::of(w, 0, first)?;
    let mut parts = Vec::new();
    for index in (2..count).step_by(3) {
        let part = Operand::of(w, index)?;
        let number = part.number(w)?;
        parts.push(to.quantized(w, number)?);
    }
    let axis = w.axis(axis, w.rank(first))?;
    Ok(vec![w.concat(axis, &parts)?])
}

/// Elements of one of two operands, which have their own scales.
fn choose(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let condition = w.input(0)?;
    ensure!(w.dtype(condition) == DType::Bool, "a condition of type {:?}", w.dtype(condition));
    let (x, y) = (Operand::of(w, 1)?, Operand::of(w, 4)?);
    check_zero_type(w, x.q, y.q)?;
    let to = Target::of(w, 7, x.q)?;
    let (x, y) = (x.number(w)?, y.number(w)?);
    let (x, y) = (to.quantized(w, x)?, to.quantized(w, y)?);
    Ok(vec![w.select(condition, x, y)?])
}

fn reduce_mean(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = Operand::of(w, 0)?;
    let to = Target::of(w, 3, x.q)?;
    let rank = w.rank(x.q);
    let axes = match w.ints("axes")?.filter(|axes| !axes.is_empty()) {
        Some(axes) => w.axes(&axes, rank)?,
        None => (0..rank).collect(),
    };
    let keep = w.int("keepdims")?.unwrap_or(1) != 0;
    let number = x.number(w)?;
    let mean = w.reduce(ReduceKind::Mean, number, &axes, keep)?;
    Ok(vec![to.quantized(w, mean)?])
}

/// The mean of `q - zero` over `axes`, which remain with size 1, quantized again.
pub(super) fn mean_of_integers(
    w: &mut Wiring<'_, '_>,
    x: &Operand,
    to: &Target,
    axes: &[usize],
) -> Result<Var> {
    let centred = x.centred(w)?;
    let sum = w.reduce(ReduceKind::Sum, centred, axes, true)?;
    let sum = w.cast(sum, DType::F32)?;
    let count: Dim = axes.iter().map(|&axis| w.dim(x.q, axis)).product();
    let count = w.dimension(count, DType::F32)?;
    let scale = w.mul(to.scale, count)?;
    let scale = w.div(x.scale, scale)?;
    let scaled = w.mul(sum, scale)?;
    saturated(w, scaled, to.zero, to.of)
}
