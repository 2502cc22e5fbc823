//! Operators that compute numbers from positions.

use anyhow::{Result, bail, ensure};
use flotilla_program::{Binary, Step, StepId, Unary, dim::Dim};
use flotilla_tensor::DType;

use crate::import::onnx::{
    constant::element_type,
    facts::Var,
    wiring::{ANY, SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Bernoulli", bernoulli),
    ("EyeLike", eye_like),
    ("RandomNormal", |w| random(w, normal, false)),
    ("RandomNormalLike", |w| random(w, normal, true)),
    ("RandomUniform", |w| random(w, uniform, false)),
    ("RandomUniformLike", |w| random(w, uniform, true)),
    ("Range", range),
];

/// Longest range of floats.
const COUNT_MAX: f64 = (1u64 << 31) as f64;

/// `start, start + delta, ..` below `limit`. A range of integers stays known, because shapes may depend on it.
fn range(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let dtype = w.dtype(w.input(0)?);
    if dtype.is_float() {
        return Ok(vec![range_of_floats(w, dtype)?]);
    }
    let (start, limit, delta) = (w.element(0, ANY)?, w.element(1, ANY)?, w.element(2, ANY)?);
    ensure!(delta != Dim::Fixed(0), "a range in steps of 0");
    // The number of steps that fit, including a last partial one; 0 if they go in the wrong direction.
    let count = w.walk.bounded(|bounds| {
        let way = &limit - &start;
        match delta.as_fixed() {
            Some(step) if step > 0 => way.over_up(step),
            Some(step) => (-way).over_up(-step),
            None => {
                let up = way.over_up(&delta);
                let down = (-&way).over_up(-&delta);
                delta.less(0, bounds).select(down, up)
            }
        }
        .most(0, bounds)
    });
    let numbers = w.range(start.clone(), delta.clone(), count.clone())?;
    // A short range may become part of a shape.
    if let Some(length) = count.as_fixed().filter(|&length| length <= 64) {
        let dims = (0..length).map(|index| &start + &delta * index).collect();
        let numbers = w.dimensions(dims);
        return Ok(vec![w.cast(numbers, dtype)?]);
    }
    Ok(vec![w.cast(numbers, dtype)?])
}

/// The length is read once it is computed, if it is not known.
fn range_of_floats(w: &mut Wiring<'_, '_>, dtype: DType) -> Result<Var> {
    let ends = [w.input(0)?, w.input(1)?, w.input(2)?];
    let known: Vec<Option<f64>> = ends
        .iter()
        .map(|&end| w.constant(end).and_then(|end| end.floats().first().copied()))
        .collect();
    let count = match known.as_slice() {
        &[Some(start), Some(limit), Some(delta)] => {
            let count = ((limit - start) / delta).ceil().max(0.0);
            if !(0.0..COUNT_MAX).contains(&count) {
                bail!("a range from {start} to {limit} in steps of {delta}");
            }
            Dim::Fixed(count as i64)
        }
        _ => {
            let way = w.sub(ends[1], ends[0])?;
            let steps = w.div(way, ends[2])?;
            let steps = w.unary(Unary::Ceil, steps)?;
            let steps = w.unary(Unary::Relu, steps)?;
            let steps = w.cast(steps, DType::I64)?;
            let name = format!("{}.length", w.name);
            w.walk.elements(steps, &name, SIZES)?.swap_remove(0)
        }
    };
    let numbers = w.positions(&count)?;
    let numbers = w.cast(numbers, DType::F32)?;
    let [start, _, delta] = ends.map(|end| w.reshape(end, &[]));
    let numbers = w.mul(numbers, delta?)?;
    let numbers = w.add(numbers, start?)?;
    w.cast(numbers, dtype)
}

/// Ones on a diagonal, computed where they are used.
fn eye_like(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let [rows, columns] = shape.as_slice() else {
        bail!("{} dimensions, a matrix has two", shape.len());
    };
    let diagonal = w.int("k")?.unwrap_or(0);
    let dtype = dtype(w)?.unwrap_or(w.dtype(x));
    let row = w.range(Dim::Fixed(diagonal), Dim::Fixed(1), rows.clone())?;
    let column = w.positions(columns)?;
    let row = w.unsqueeze(row, 1)?;
    let ones = w.binary(Binary::Eq, row, column)?;
    Ok(vec![w.cast(ones, dtype)?])
}

/// The type that an attribute names.
fn dtype(w: &Wiring<'_, '_>) -> Result<Option<DType>> {
    let Some(number) = w.int("dtype")? else { return Ok(None) };
    match element_type(i32::try_from(number)?) {
        Some(dtype) => Ok(Some(dtype)),
        None => bail!("elements of type {number} are not supported"),
    }
}

/// Distinguishes a node's random numbers if the file has no seed: FNV-1a of its name (Fowler, Noll and Vo).
fn seed(w: &Wiring<'_, '_>) -> Result<u32> {
    Ok(match w.float("seed")? {
        Some(seed) => seed.to_bits(),
        None => w.name.bytes().fold(0x811c_9dc5, |hash: u32, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        }),
    })
}

/// Expressions of one word, from an element's position.
#[derive(Default)]
struct Draw {
    steps: Vec<Step>,
}

impl Draw {
    fn push(&mut self, step: Step) -> StepId {
        self.steps.push(step);
        (self.steps.len() - 1) as StepId
    }

    fn word(&mut self, word: u32) -> StepId {
        let number = self.push(Step::Int(word as i32));
        self.push(Step::Bits(DType::U32, number))
    }

    /// A pseudo-random word from a counter: the finalizer of Appleby, MurmurHash3 (x86, 32 bits).
    fn mixed(&mut self, counter: StepId, seed: u32) -> StepId {
        let seed = self.word(seed);
        let mut x = self.push(Step::Binary(Binary::Xor, counter, seed));
        for (shift, factor) in [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35), (16, 1)] {
            let by = self.word(shift);
            let high = self.push(Step::Binary(Binary::ShiftRight, x, by));
            x = self.push(Step::Binary(Binary::Xor, x, high));
            if factor != 1 {
                let factor = self.word(factor);
                x = self.push(Step::Binary(Binary::Mul, x, factor));
            }
        }
        x
    }

    /// A number strictly between 0 and 1: 23 bits of a word, plus half of the next bit.
    fn unit(&mut self, counter: StepId, seed: u32) -> StepId {
        let word = self.mixed(counter, seed);
        let by = self.word(9);
        let bits = self.push(Step::Binary(Binary::ShiftRight, word, by));
        let number = self.push(Step::Cast(DType::F32, bits));
        let half = self.push(Step::Float(0.5));
        let number = self.push(Step::Binary(Binary::Add, number, half));
        let scale = self.push(Step::Float(1.0 / (1 << 23) as f32));
        self.push(Step::Binary(Binary::Mul, number, scale))
    }
}

/// From `low` to `high`.
fn uniform(w: &Wiring<'_, '_>, draw: &mut Draw, counter: StepId, seed: u32) -> Result<StepId> {
    let (low, high) = (w.float("low")?.unwrap_or(0.0), w.float("high")?.unwrap_or(1.0));
    let unit = draw.unit(counter, seed);
    let width = draw.push(Step::Float(high - low));
    let number = draw.push(Step::Binary(Binary::Mul, unit, width));
    let low = draw.push(Step::Float(low));
    Ok(draw.push(Step::Binary(Binary::Add, number, low)))
}

/// Of a normal distribution: Box and Muller, "A Note on the Generation of Random Normal Deviates".
fn normal(w: &Wiring<'_, '_>, draw: &mut Draw, counter: StepId, seed: u32) -> Result<StepId> {
    let (mean, scale) = (w.float("mean")?.unwrap_or(0.0), w.float("scale")?.unwrap_or(1.0));
    let first = draw.unit(counter, seed);
    let second = draw.unit(counter, seed.rotate_left(16) ^ 0x9e37_79b9);
    let log = draw.push(Step::Unary(Unary::Ln, first));
    let minus_two = draw.push(Step::Float(-2.0));
    let square = draw.push(Step::Binary(Binary::Mul, log, minus_two));
    let radius = draw.push(Step::Unary(Unary::Sqrt, square));
    let turn = draw.push(Step::Float(std::f32::consts::TAU));
    let angle = draw.push(Step::Binary(Binary::Mul, second, turn));
    let cosine = draw.push(Step::Unary(Unary::Cos, angle));
    let number = draw.push(Step::Binary(Binary::Mul, radius, cosine));
    let scale = draw.push(Step::Float(scale));
    let number = draw.push(Step::Binary(Binary::Mul, number, scale));
    let mean = draw.push(Step::Float(mean));
    Ok(draw.push(Step::Binary(Binary::Add, number, mean)))
}

type Distribution = fn(&Wiring<'_, '_>, &mut Draw, StepId, u32) -> Result<StepId>;

/// Numbers of a distribution, with the shape of an operand or of an attribute. Each run draws the same numbers in every
/// browser, because answers are compared, and rows of one request may come from several browsers.
fn random(w: &mut Wiring<'_, '_>, distribution: Distribution, like: bool) -> Result<Vec<Var>> {
    let named = dtype(w)?;
    let (shape, dtype) = if like {
        let x = w.input(0)?;
        (w.shape(x), named.unwrap_or(w.dtype(x)))
    } else {
        let Some(sizes) = w.ints("shape")? else { bail!("it has no shape") };
        (sizes.into_iter().map(Dim::Fixed).collect(), named.unwrap_or(DType::F32))
    };
    ensure!(dtype.is_float(), "it draws floats, not {dtype:?}");
    let numbers = drawn(w, &shape, distribution)?;
    Ok(vec![w.cast(numbers, dtype)?])
}

fn drawn(w: &mut Wiring<'_, '_>, shape: &[Dim], distribution: Distribution) -> Result<Var> {
    let seed = seed(w)?;
    let count: Dim = shape.iter().product();
    let positions = w.positions(&count)?;
    let mut draw = Draw::default();
    let position = draw.push(Step::Input(0));
    let counter = draw.push(Step::Cast(DType::U32, position));
    distribution(w, &mut draw, counter, seed)?;
    let numbers = w.expr(draw.steps, &[positions], DType::F32)?;
    w.reshape(numbers, shape)
}

/// True with the probability given by each element.
fn bernoulli(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let dtype = dtype(w)?.unwrap_or(w.dtype(x));
    let unit: Distribution = |_, draw, counter, seed| Ok(draw.unit(counter, seed));
    let drawn = drawn(w, &w.shape(x), unit)?;
    let truth = w.binary(Binary::Lt, drawn, x)?;
    Ok(vec![w.cast(truth, dtype)?])
}
