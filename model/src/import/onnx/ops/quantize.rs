//! Conversion between numbers and quantized integers: `x = (q - zero_point) * scale`.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{Binary, ReduceKind, Step, Unary, dim::Dim};
use flotilla_tensor::DType;

use super::dequantize::{blockwise, dequantized};
use crate::import::onnx::{
    constant::{element_type, type_name},
    facts::Var,
    small::SmallType,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("DequantizeLinear", dequantize),
    ("DynamicQuantizeLinear", quantize_dynamic),
    ("QuantizeLinear", quantize),
];

/// Those of `com.microsoft`. Without an axis there is one scale.
pub(super) const MICROSOFT_OPERATORS: &[(&str, Wire)] =
    &[("DequantizeLinear", dequantize), ("QuantizeLinear", quantize)];

/// The type of quantized integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quantized {
    dtype: DType,
    small: Option<SmallType>,
}

impl Quantized {
    /// The type of a value.
    pub(super) fn of(w: &Wiring<'_, '_>, var: Var) -> Quantized {
        Quantized { dtype: w.dtype(var), small: w.walk.small(var) }
    }

    pub(super) const U8: Quantized = Quantized { dtype: DType::U8, small: None };

    fn name(self) -> String {
        match self.small {
            Some(small) => small.name().to_owned(),
            None => format!("{:?}", self.dtype),
        }
    }

    /// The least and the largest integer.
    fn range(self) -> Result<(f64, f64)> {
        let (low, high) = match (self.small, self.dtype) {
            (Some(small), _) => small.range(),
            (None, DType::U8) => Some((0, 0xff)),
            (None, DType::I8) => Some((-0x80, 0x7f)),
            (None, DType::U16) => Some((0, 0xffff)),
            (None, DType::I16) => Some((-0x8000, 0x7fff)),
            _ => None,
        }
        .with_context(|| format!("numbers cannot be quantized to {}", self.name()))?;
        Ok((low as f64, high as f64))
    }
}

/// `saturate(round(x / scale) + zero_point)`, halves rounded to even.
fn quantize(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, scale, zero) = (w.input(0)?, w.input(1)?, w.optional(2));
    ensure!(
        w.dtype(x).is_float() || w.dtype(x) == DType::I32,
        "numbers of type {:?}, floats or I32 are needed",
        w.dtype(x)
    );
    let to = match (zero.map(|zero| Quantized::of(w, zero)), output_type(w)?) {
        (Some(zero), Some(to)) => {
            ensure!(
                zero == to,
                "a zero point of type {} and output_dtype {}",
                zero.name(),
                to.name()
            );
            zero
        }
        (Some(to), None) | (None, Some(to)) => to,
        (None, None) => Quantized::U8,
    };
    to.range()?;
    check_precision(w, scale)?;
    let Spread { scale, zero, along } = spread(w, x, scale, zero)?;
    let scale = w.cast(scale, DType::F32)?;
    let operands: Vec<Var> = [scale].into_iter().chain(zero).collect();
    let x = w.cast(x, DType::F32)?;
    let q = blockwise(w, x, &operands, along, |w, x, operands| {
        let scaled = divided(w, x, operands[0], scale)?;
        saturated(w, scaled, operands.get(1).copied(), to)
    })?;
    if let Some(small) = to.small {
        w.walk.set_small(q, small);
    }
    Ok(vec![q])
}

/// `x / scale`. A scale of 0 gives the largest number for a positive one and the least for others, as onnxruntime's infinities
/// and NaN do once they are integers; devices need not have those. `known` is the scale if it is a constant.
fn divided(w: &mut Wiring<'_, '_>, x: Var, scale: Var, known: Var) -> Result<Var> {
    if is_never_zero(w, known) {
        return w.div(x, scale);
    }
    let steps = vec![
        Step::Input(0),
        Step::Input(1),
        Step::Float(0.0),
        Step::Binary(Binary::Eq, 1, 2),
        Step::Binary(Binary::Gt, 0, 2),
        Step::Float(f32::MAX),
        Step::Float(f32::MIN),
        Step::Select(4, 5, 6),
        Step::Float(1.0),
        Step::Select(3, 8, 1),
        Step::Binary(Binary::Div, 0, 9),
        Step::Select(3, 7, 10),
    ];
    w.expr(steps, &[x, scale], DType::F32)
}

/// Whether a scale is known and has no 0.
fn is_never_zero(w: &Wiring<'_, '_>, scale: Var) -> bool {
    let known = w.constant(scale).map(|scale| scale.floats());
    known.is_some_and(|scales| scales.iter().all(|&scale| scale != 0.0))
}

/// Refuses a scale of a result that is known to have a 0: what onnxruntime gives for it depends on the processor.
pub(super) fn check_result_scale(w: &Wiring<'_, '_>, scale: Var) -> Result<()> {
    ensure!(w.constant(scale).is_none() || is_never_zero(w, scale), "the scale of the result is 0");
    Ok(())
}

/// The type in which `x / scale` is computed. A page computes with 32 bits, which is what onnxruntime does, too.
fn check_precision(w: &Wiring<'_, '_>, scale: Var) -> Result<()> {
    let number = w.int("precision")?.unwrap_or(0);
    let dtype = i32::try_from(number).ok().and_then(element_type);
    if number == 0 || dtype == Some(DType::F32) || dtype == Some(w.dtype(scale)) {
        return Ok(());
    }
    bail!("precision {number} for a scale of type {:?}", w.dtype(scale))
}

/// `(q - zero_point) * scale`.
fn dequantize(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, scale, zero) = (w.input(0)?, w.input(1)?, w.optional(2));
    let of = Quantized::of(w, x);
    let is_float = of.small.is_some_and(|small| small.range().is_none());
    ensure!(
        is_float || of.dtype == DType::I32 || of.range().is_ok(),
        "numbers of type {} are not quantized ones",
        of.name()
    );
    if let Some(zero) = zero {
        check_zero_type(w, x, zero)?;
    }
    let zero = match zero {
        // One that only a run knows is subtracted, which is right for 0.
        Some(zero) if is_float || of.dtype == DType::I32 && w.constant(zero).is_some() => {
            let known = w.constant(zero).map(|zero| zero.floats());
            ensure!(
                known.is_some_and(|zeros| zeros.iter().all(|&zero| zero == 0.0)),
                "a zero point of type {} must be 0 and known when the model is loaded",
                of.name()
            );
            None
        }
        zero => zero,
    };
    let to = match output_type(w)? {
        None => w.dtype(scale),
        Some(to) => to.dtype,
    };
    ensure!(to.is_float(), "a result of type {to:?}, a float is needed");
    let Spread { scale, zero, along: (axis, block) } = spread(w, x, scale, zero)?;
    let result = dequantized(w, x, scale, zero, axis, block)?;
    Ok(vec![w.cast(result, to)?])
}

/// Quantized to `U8` with the scale and zero point for the range of the numbers and zero.
fn quantize_dynamic(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let Dynamic { q, scale, zero } = dynamic(w, x)?;
    Ok(vec![q, scale, zero])
}

/// Numbers that were quantized with the scale and zero point for their range.
pub(super) struct Dynamic {
    pub(super) q: Var,
    pub(super) scale: Var,
    pub(super) zero: Var,
}

/// Quantizes to `U8` with one scale. Source: ONNX operators, "DynamicQuantizeLinear".
pub(super) fn dynamic(w: &mut Wiring<'_, '_>, x: Var) -> Result<Dynamic> {
    ensure!(w.dtype(x).is_float(), "numbers of type {:?}, floats are needed", w.dtype(x));
    let x = w.cast(x, DType::F32)?;
    let axes: Vec<usize> = (0..w.rank(x)).collect();
    let zero = w.scalar(DType::F32, 0.0);
    let low = w.reduce(ReduceKind::Min, x, &axes, false)?;
    let low = w.min(low, zero)?;
    let high = w.reduce(ReduceKind::Max, x, &axes, false)?;
    let high = w.max(high, zero)?;
    let steps = w.scalar(DType::F32, f64::from(u8::MAX));
    let span = w.sub(high, low)?;
    let scale = w.binary(Binary::Div, span, steps)?;
    // If all numbers are zero, any scale is valid; this one can be divided by, and onnxruntime gives it, too.
    let one = w.scalar(DType::F32, 1.0);
    let nothing = w.binary(Binary::Eq, scale, zero)?;
    let scale = w.select(nothing, one, scale)?;
    let offset = w.sub(zero, low)?;
    let offset = w.binary(Binary::Div, offset, scale)?;
    let zero = saturated(w, offset, None, Quantized::U8)?;
    let scaled = w.binary(Binary::Div, x, scale)?;
    let q = saturated(w, scaled, Some(zero), Quantized::U8)?;
    Ok(Dynamic { q, scale, zero })
}

/// Rounded, shifted by the zero point and kept within an integer type.
pub(super) fn saturated(
    w: &mut Wiring<'_, '_>,
    x: Var,
    zero: Option<Var>,
    to: Quantized,
) -> Result<Var> {
    let (low, high) = to.range()?;
    let mut result = w.unary(Unary::Round, x)?;
    if let Some(zero) = zero {
        let zero = w.cast(zero, DType::F32)?;
        result = w.add(result, zero)?;
    }
    let (low, high) = (w.scalar(DType::F32, low), w.scalar(DType::F32, high));
    let result = w.max(result, low)?;
    let result = w.min(result, high)?;
    w.cast(result, to.dtype)
}

/// The type in the attribute `output_dtype`.
fn output_type(w: &Wiring<'_, '_>) -> Result<Option<Quantized>> {
    let number = i32::try_from(w.int("output_dtype")?.unwrap_or(0))?;
    if number == 0 {
        return Ok(None);
    }
    if let Some(small) = SmallType::of(number) {
        return Ok(Some(Quantized { dtype: small.dtype(), small: Some(small) }));
    }
    match element_type(number) {
        Some(dtype) => Ok(Some(Quantized { dtype, small: None })),
        None => bail!("elements of type {} are not supported", type_name(number)),
    }
}

/// Refuses a zero point of another type than that of the integers.
pub(super) fn check_zero_type(w: &Wiring<'_, '_>, x: Var, zero: Var) -> Result<()> {
    let (of, own) = (Quantized::of(w, x), Quantized::of(w, zero));
    ensure!(of == own, "a zero point of type {} for numbers of type {}", own.name(), of.name());
    Ok(())
}

/// A scale and a zero point in the shapes that [`dequantized`] has.
struct Spread {
    scale: Var,
    zero: Option<Var>,
    /// The axis, and the elements of a block.
    along: (usize, usize),
}

/// One scale for all, one for each position on an axis, or one for each block of an axis.
fn spread(w: &mut Wiring<'_, '_>, x: Var, scale: Var, zero: Option<Var>) -> Result<Spread> {
    let (shape, own) = (w.shape(x), w.shape(scale));
    let one = Dim::Fixed(1);
    ensure!(w.dtype(scale).is_float(), "a scale of type {:?}", w.dtype(scale));
    let block = w.int("block_size")?.unwrap_or(0);
    let block = usize::try_from(block).ok().filter(|&block| block <= 1 << 31);
    let block = block.context("block_size is negative or too large")?;
    let is_single = |shape: &[Dim]| shape.iter().all(|dim| *dim == one);
    if let Some(zero) = zero {
        let other = w.shape(zero);
        if !(is_single(&own) && is_single(&other)) {
            ensure!(
                own.len() == other.len(),
                "a scale of shape {} and a zero point of shape {}",
                w.walk.shape_text(&own),
                w.walk.shape_text(&other)
            );
            for (a, b) in own.iter().zip(&other) {
                w.same("the dimensions of the scale and of the zero point", a, b)?;
            }
        }
    }
    let reshaped = |w: &mut Wiring<'_, '_>, to: &[Dim]| -> Result<(Var, Option<Var>)> {
        let zero = zero.map(|zero| w.reshape(zero, to)).transpose()?;
        Ok((w.reshape(scale, to)?, zero))
    };
    if block == 0 && is_single(&own) {
        let (scale, zero) = reshaped(w, &[])?;
        return Ok(Spread { scale, zero, along: (0, 1) });
    }
    let axis = match (w.int("axis")?, w.node.domain.as_str()) {
        (Some(axis), _) => axis,
        (None, "com.microsoft") => {
            bail!("a scale of shape {} without an axis", w.walk.shape_text(&own))
        }
        (None, _) => 1,
    };
    let axis = w.axis(axis, shape.len())?;
    if let ([positions], 0) = (own.as_slice(), block) {
        w.same("the scales and the positions on their axis", positions, &shape[axis])?;
        let mut along: Vec<Dim> = vec![one; shape.len()];
        along[axis] = positions.clone();
        let (scale, zero) = reshaped(w, &along)?;
        return Ok(Spread { scale, zero, along: (axis, 1) });
    }
    ensure!(
        own.len() == shape.len() && block > 0,
        "a scale of shape {} for numbers of shape {} in blocks of {block}",
        w.walk.shape_text(&own),
        w.walk.shape_text(&shape)
    );
    for (at, (scales, numbers)) in own.iter().zip(&shape).enumerate() {
        let (what, wanted) = match at == axis {
            true => ("the scales and the blocks of an axis", numbers.over_up(block)),
            false => ("the dimensions of the scale and of the numbers", numbers.clone()),
        };
        w.same(what, scales, &wanted)?;
    }
    Ok(Spread { scale, zero, along: (axis, block) })
}
