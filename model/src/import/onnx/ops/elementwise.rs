//! Functions of single elements.

use anyhow::{Context as _, Result, bail};
use flotilla_program::{Binary, Step, Test, Unary, dim::Dim};
use flotilla_tensor::DType;

use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Abs", |w| unary(w, Unary::Abs)),
    ("Acos", |w| unary(w, Unary::Acos)),
    ("Acosh", |w| unary(w, Unary::Acosh)),
    ("Add", |w| binary(w, Binary::Add)),
    ("And", |w| binary(w, Binary::And)),
    ("Asin", |w| unary(w, Unary::Asin)),
    ("Asinh", |w| unary(w, Unary::Asinh)),
    ("Atan", |w| unary(w, Unary::Atan)),
    ("Atanh", |w| unary(w, Unary::Atanh)),
    ("BitShift", bit_shift),
    ("BitwiseAnd", |w| binary(w, Binary::And)),
    ("BitwiseNot", |w| unary(w, Unary::Not)),
    ("BitwiseOr", |w| binary(w, Binary::Or)),
    ("BitwiseXor", |w| binary(w, Binary::Xor)),
    ("Ceil", |w| unary(w, Unary::Ceil)),
    ("Celu", celu),
    ("Clip", clip),
    ("Cos", |w| unary(w, Unary::Cos)),
    ("Cosh", |w| unary(w, Unary::Cosh)),
    ("Div", |w| binary(w, Binary::Div)),
    ("Elu", elu),
    ("Equal", |w| binary(w, Binary::Eq)),
    ("Erf", |w| unary(w, Unary::Erf)),
    ("Exp", |w| unary(w, Unary::Exp)),
    ("Floor", |w| unary(w, Unary::Floor)),
    ("Gelu", gelu),
    ("Greater", |w| binary(w, Binary::Gt)),
    ("GreaterOrEqual", |w| binary(w, Binary::Ge)),
    ("HardSigmoid", hard_sigmoid),
    ("HardSwish", hard_swish),
    ("Identity", |w| Ok(vec![w.input(0)?])),
    ("IsInf", is_inf),
    ("IsNaN", is_nan),
    ("LeakyRelu", leaky_relu),
    ("Less", |w| binary(w, Binary::Lt)),
    ("LessOrEqual", |w| binary(w, Binary::Le)),
    ("Log", |w| unary(w, Unary::Ln)),
    ("Max", |w| several(w, Binary::Max)),
    ("Mean", mean),
    ("Min", |w| several(w, Binary::Min)),
    ("Mish", mish),
    ("Mod", modulo),
    ("Mul", |w| binary(w, Binary::Mul)),
    ("Neg", |w| unary(w, Unary::Neg)),
    ("Not", |w| unary(w, Unary::Not)),
    ("Or", |w| binary(w, Binary::Or)),
    ("PRelu", prelu),
    ("ParametricSoftplus", parametric_softplus),
    ("Pow", pow),
    ("Reciprocal", |w| unary(w, Unary::Recip)),
    ("Relu", |w| unary(w, Unary::Relu)),
    ("Round", |w| unary(w, Unary::Round)),
    ("ScaledTanh", scaled_tanh),
    ("Selu", selu),
    ("Shrink", shrink),
    ("Sigmoid", |w| unary(w, Unary::Sigmoid)),
    ("Sign", |w| unary(w, Unary::Sign)),
    ("Sin", |w| unary(w, Unary::Sin)),
    ("Sinh", |w| unary(w, Unary::Sinh)),
    ("Softplus", |w| unary(w, Unary::Softplus)),
    ("Softsign", softsign),
    ("Sqrt", |w| unary(w, Unary::Sqrt)),
    ("Sub", |w| binary(w, Binary::Sub)),
    ("Sum", |w| several(w, Binary::Add)),
    ("SwiGLU", swiglu),
    ("Swish", swish),
    ("Tan", |w| unary(w, Unary::Tan)),
    ("Tanh", |w| unary(w, Unary::Tanh)),
    ("ThresholdedRelu", thresholded_relu),
    ("Where", where_),
    ("Xor", |w| binary(w, Binary::Xor)),
];

fn unary(w: &mut Wiring<'_, '_>, function: Unary) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    Ok(vec![w.unary(function, x)?])
}

fn binary(w: &mut Wiring<'_, '_>, function: Binary) -> Result<Vec<Var>> {
    let (a, b) = operands(w)?;
    Ok(vec![w.binary(function, a, b)?])
}

/// Two operands; in the first versions the second one is broadcast from the axis that an attribute names.
fn operands(w: &mut Wiring<'_, '_>) -> Result<(Var, Var)> {
    let (a, mut b) = (w.input(0)?, w.input(1)?);
    if w.opset < 7
        && let Some(axis) = w.int("axis")?
    {
        let (rank, own) = (w.rank(a), w.rank(b));
        let behind = rank.checked_sub(w.axis(axis, rank)? + own);
        let behind = behind.context("the second operand has more dimensions than the first")?;
        let mut shape = w.shape(b);
        shape.resize(own + behind, Dim::Fixed(1));
        b = w.reshape(b, &shape)?;
    }
    Ok((a, b))
}

/// A function of any number of operands, applied from the left.
fn several(w: &mut Wiring<'_, '_>, function: Binary) -> Result<Vec<Var>> {
    let operands = w.all_inputs()?;
    let (first, rest) = operands.split_first().context("it has no operands")?;
    let result = rest.iter().try_fold(*first, |all, &next| w.binary(function, all, next))?;
    Ok(vec![result])
}

fn mean(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let sum = several(w, Binary::Add)?[0];
    let count = w.scalar(w.dtype(sum), w.inputs_len() as f64);
    Ok(vec![w.div(sum, count)?])
}

fn where_(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (condition, yes, no) = (w.input(0)?, w.input(1)?, w.input(2)?);
    Ok(vec![w.select(condition, yes, no)?])
}

/// An expression of the single operand, with numbers of its type.
fn of_x(w: &mut Wiring<'_, '_>, steps: Vec<Step>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    Ok(vec![w.expr(steps, &[x], w.dtype(x))?])
}

fn number(w: &Wiring<'_, '_>, name: &str, usual: f32) -> Result<f32> {
    Ok(w.float(name)?.unwrap_or(usual))
}

/// For integers the quotient is rounded down, so the remainder has the divisor's sign; with `fmod` it has the
/// dividend's.
fn modulo(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    let dtype = w.dtype(a);
    let signed = dtype.storage() == DType::I32;
    if w.flag("fmod")? || (dtype.is_integer() && !signed) {
        return Ok(vec![w.binary(Binary::Rem, a, b)?]);
    }
    let zero = if dtype.is_float() { Step::Float(0.0) } else { Step::Int(0) };
    let steps = vec![
        Step::Input(0),
        Step::Input(1),
        Step::Binary(Binary::Rem, 0, 1),
        zero,
        Step::Binary(Binary::Lt, 2, 3),
        Step::Binary(Binary::Lt, 1, 3),
        Step::Binary(Binary::Ne, 4, 5),
        Step::Binary(Binary::Ne, 2, 3),
        Step::Binary(Binary::And, 6, 7),
        Step::Binary(Binary::Add, 2, 1),
        Step::Select(8, 9, 2),
    ];
    Ok(vec![w.expr(steps, &[a, b], dtype)?])
}

fn bit_shift(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    match w.text("direction")?.unwrap_or_default() {
        "LEFT" => binary(w, Binary::ShiftLeft),
        "RIGHT" => binary(w, Binary::ShiftRight),
        other => bail!("direction {other:?} is not known"),
    }
}

/// The base determines the result's type; the power is computed in floats if either operand is a float.
fn pow(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (base, exponent) = operands(w)?;
    let (dtype, other) = (w.dtype(base), w.dtype(exponent));
    let common = match (dtype.is_float(), other.is_float()) {
        (true, _) => dtype,
        (false, true) => DType::F32,
        (false, false) => dtype,
    };
    let (base, exponent) = (w.cast(base, common)?, w.cast(exponent, common)?);
    let power = w.binary(Binary::Pow, base, exponent)?;
    Ok(vec![w.cast(power, dtype)?])
}

/// Bounds are attributes before version 11. If the lower bound is above the upper one, the upper one applies.
fn clip(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let mut x = w.input(0)?;
    let dtype = w.dtype(x);
    let bound = |w: &mut Wiring<'_, '_>, index: usize, name: &str| -> Result<Option<Var>> {
        if w.opset >= 11 {
            return Ok(w.optional(index));
        }
        Ok(w.float(name)?.map(|bound| w.scalar(dtype, f64::from(bound))))
    };
    if let Some(low) = bound(w, 1, "min")? {
        x = w.max(x, low)?;
    }
    if let Some(high) = bound(w, 2, "max")? {
        x = w.min(x, high)?;
    }
    Ok(vec![x])
}

fn is_nan(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let steps = vec![Step::Input(0), Step::Test(Test::Nan, 0)];
    Ok(vec![w.expr(steps, &[x], DType::Bool)?])
}

fn is_inf(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let wanted = |name: &str| -> Result<bool> { Ok(w.int(name)?.unwrap_or(1) != 0) };
    let tests = [
        (wanted("detect_positive")?, Test::PositiveInfinity),
        (wanted("detect_negative")?, Test::NegativeInfinity),
    ];
    let mut wanted = tests.into_iter().filter(|(wanted, _)| *wanted).map(|(_, test)| test);
    let first = match wanted.next() {
        Some(test) => Step::Test(test, 0),
        // No number is less than itself, so the result is false.
        None => Step::Binary(Binary::Lt, 0, 0),
    };
    let mut steps = vec![Step::Input(0), first];
    if let Some(test) = wanted.next() {
        steps.extend([Step::Test(test, 0), Step::Binary(Binary::Or, 1, 2)]);
    }
    Ok(vec![w.expr(steps, &[x], DType::Bool)?])
}

/// `max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`.
fn celu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let dtype = w.dtype(x);
    let alpha = f64::from(number(w, "alpha", 1.0)?);
    let (zero, one, alpha) = (w.scalar(dtype, 0.0), w.scalar(dtype, 1.0), w.scalar(dtype, alpha));
    let above = w.max(x, zero)?;
    let scaled = w.div(x, alpha)?;
    let power = w.unary(Unary::Exp, scaled)?;
    let power = w.sub(power, one)?;
    let power = w.mul(alpha, power)?;
    let below = w.min(power, zero)?;
    Ok(vec![w.add(above, below)?])
}

/// `x`, and `alpha * (exp(x) - 1)` where it is negative, all times a factor.
fn exponential(w: &mut Wiring<'_, '_>, alpha: f32, factor: f32) -> Result<Vec<Var>> {
    let mut steps = vec![
        Step::Input(0),
        Step::Unary(Unary::Exp, 0),
        Step::Float(1.0),
        Step::Binary(Binary::Sub, 1, 2),
        Step::Float(alpha),
        Step::Binary(Binary::Mul, 4, 3),
        Step::Float(0.0),
        Step::Binary(Binary::Lt, 0, 6),
        Step::Select(7, 5, 0),
    ];
    if factor != 1.0 {
        steps.extend([Step::Float(factor), Step::Binary(Binary::Mul, 8, 9)]);
    }
    of_x(w, steps)
}

fn elu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let alpha = number(w, "alpha", 1.0)?;
    exponential(w, alpha, 1.0)
}

/// Source: Klambauer et al., "Self-Normalizing Neural Networks", eq. 2, for the usual numbers.
fn selu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (alpha, gamma) = (number(w, "alpha", 1.673_263_2)?, number(w, "gamma", 1.050_701)?);
    exponential(w, alpha, gamma)
}

fn gelu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    match w.text("approximate")?.unwrap_or("none") {
        "none" => unary(w, Unary::GeluErf),
        "tanh" => unary(w, Unary::GeluTanh),
        other => bail!("approximation {other:?} is not known"),
    }
}

/// `alpha * x + beta`, kept within 0 and 1.
fn hard_sigmoid(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (alpha, beta) = (number(w, "alpha", 0.2)?, number(w, "beta", 0.5)?);
    of_x(w, hard_sigmoid_steps(alpha, beta))
}

fn hard_sigmoid_steps(alpha: f32, beta: f32) -> Vec<Step> {
    vec![
        Step::Input(0),
        Step::Float(alpha),
        Step::Binary(Binary::Mul, 0, 1),
        Step::Float(beta),
        Step::Binary(Binary::Add, 2, 3),
        Step::Unary(Unary::Relu, 4),
        Step::Float(1.0),
        Step::Binary(Binary::Min, 5, 6),
    ]
}

fn hard_swish(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let mut steps = hard_sigmoid_steps(1.0 / 6.0, 0.5);
    steps.push(Step::Binary(Binary::Mul, 0, 7));
    of_x(w, steps)
}

fn leaky_relu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let steps = vec![
        Step::Input(0),
        Step::Float(number(w, "alpha", 0.01)?),
        Step::Binary(Binary::Mul, 0, 1),
        Step::Float(0.0),
        Step::Binary(Binary::Lt, 0, 3),
        Step::Select(4, 2, 0),
    ];
    of_x(w, steps)
}

/// `x`, times the slope where it is negative. Before operator set 7 a slope had one element per channel.
fn prelu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, mut slope) = (w.input(0)?, w.input(1)?);
    let rank = w.rank(x);
    if w.opset < 7 && w.rank(slope) == 1 && rank > 2 {
        let mut shape = vec![Dim::Fixed(1); rank - 1];
        shape[0] = w.dim(slope, 0);
        slope = w.reshape(slope, &shape)?;
    }
    let zero = w.scalar(w.dtype(x), 0.0);
    let negative = w.binary(Binary::Lt, x, zero)?;
    let scaled = w.mul(x, slope)?;
    Ok(vec![w.select(negative, scaled, x)?])
}

/// `x * tanh(ln(1 + exp(x)))`. Source: Misra, "Mish", eq. 1.
fn mish(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let steps = vec![
        Step::Input(0),
        Step::Unary(Unary::Softplus, 0),
        Step::Unary(Unary::Tanh, 1),
        Step::Binary(Binary::Mul, 0, 2),
    ];
    of_x(w, steps)
}

/// `alpha * ln(1 + exp(beta * x))`.
fn parametric_softplus(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let steps = vec![
        Step::Input(0),
        Step::Float(number(w, "beta", 1.0)?),
        Step::Binary(Binary::Mul, 0, 1),
        Step::Unary(Unary::Softplus, 2),
        Step::Float(number(w, "alpha", 1.0)?),
        Step::Binary(Binary::Mul, 3, 4),
    ];
    of_x(w, steps)
}

/// `alpha * tanh(beta * x)`.
fn scaled_tanh(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let steps = vec![
        Step::Input(0),
        Step::Float(number(w, "beta", 1.0)?),
        Step::Binary(Binary::Mul, 0, 1),
        Step::Unary(Unary::Tanh, 2),
        Step::Float(number(w, "alpha", 1.0)?),
        Step::Binary(Binary::Mul, 3, 4),
    ];
    of_x(w, steps)
}

/// 0 for numbers within a distance of 0; others are moved towards 0.
fn shrink(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let dtype = w.dtype(x);
    let (bias, limit) = (number(w, "bias", 0.0)?, number(w, "lambd", 0.5)?);
    let wide = w.cast(x, DType::F32)?;
    let steps = vec![
        Step::Input(0),
        Step::Float(limit),
        Step::Float(-limit),
        Step::Float(bias),
        Step::Float(0.0),
        Step::Binary(Binary::Gt, 0, 1),
        Step::Binary(Binary::Lt, 0, 2),
        Step::Binary(Binary::Sub, 0, 3),
        Step::Binary(Binary::Add, 0, 3),
        Step::Select(6, 8, 4),
        Step::Select(5, 7, 9),
    ];
    let result = w.expr(steps, &[wide], DType::F32)?;
    Ok(vec![w.cast(result, dtype)?])
}

/// `x / (1 + |x|)`.
fn softsign(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let steps = vec![
        Step::Input(0),
        Step::Unary(Unary::Abs, 0),
        Step::Float(1.0),
        Step::Binary(Binary::Add, 1, 2),
        Step::Binary(Binary::Div, 0, 3),
    ];
    of_x(w, steps)
}

fn thresholded_relu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let steps = vec![
        Step::Input(0),
        Step::Float(number(w, "alpha", 1.0)?),
        Step::Float(0.0),
        Step::Binary(Binary::Gt, 0, 1),
        Step::Select(3, 0, 2),
    ];
    of_x(w, steps)
}

fn swish(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    Ok(vec![swished(w, x)?])
}

/// The swish of a gate times the other operand.
fn swiglu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (gate, value) = (w.input(0)?, w.input(1)?);
    let gate = swished(w, gate)?;
    Ok(vec![w.mul(gate, value)?])
}

/// `x * sigmoid(alpha * x)`.
fn swished(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let alpha = number(w, "alpha", 1.0)?;
    let inner = if alpha == 1.0 {
        x
    } else {
        let alpha = w.scalar(w.dtype(x), f64::from(alpha));
        w.mul(alpha, x)?
    };
    let weight = w.unary(Unary::Sigmoid, inner)?;
    w.mul(x, weight)
}
