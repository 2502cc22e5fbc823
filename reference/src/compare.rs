//! Compares numbers with the right ones and decides whether the difference is allowed.
//!
//! An output is judged as a whole and element by element. For the whole, the root mean square of the difference, as a part of
//! that of the right numbers, may be as large as the [noise](Arithmetic::noise) of the arithmetic. An element may be off by
//! twice that part of the output's largest number. An output that is rounded to 8 bits must also have its top results where the
//! right ones are, unless they lie within the noise of one another.

use flotilla_tensor::{DType, NamedTensor, Tensor};
use serde::Serialize;

use crate::{Arithmetic, Precision};

/// An error that is allowed whatever the numbers are.
const ABSOLUTE: f64 = 1e-5;
/// How much farther a single element may be off than the whole, as a multiple of that part of the largest number.
const ELEMENT: f64 = 2.0;
/// Two numbers that differ by more than this multiple of the noise must be in the right order: each is off by its own error.
const ORDER: f64 = 4.0;

/// The allowed differences.
#[derive(Clone, Debug, PartialEq)]
pub struct Tolerance {
    /// The arithmetic of the model, which decides unless the other fields are set.
    pub precision: Precision,
    /// Allowed whatever the numbers are.
    pub absolute: Option<f64>,
    /// Allowed for each unit of an output's largest number; replaces all limits of the arithmetic.
    pub relative: Option<f64>,
}

impl Tolerance {
    /// The limits of the arithmetic.
    pub fn of(precision: Precision) -> Tolerance {
        Tolerance { precision, absolute: None, relative: None }
    }

    /// The limits for one output.
    pub fn bounds(&self, output: &str) -> Bounds {
        let noise = self.precision.noise(output);
        Bounds {
            arithmetic: self.precision.of_output(output),
            absolute: self.absolute.unwrap_or(ABSOLUTE),
            relative: self.relative.unwrap_or(ELEMENT * noise),
            noise: self.relative.is_none().then_some(noise),
        }
    }
}

impl Default for Tolerance {
    fn default() -> Tolerance {
        Tolerance::of(Precision::of_all(Arithmetic::F32))
    }
}

/// The limits for an output.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// What it was computed in.
    pub arithmetic: Arithmetic,
    /// Allowed whatever the numbers are.
    pub absolute: f64,
    /// Allowed for an element, for each unit of the output's largest number.
    pub relative: f64,
    /// Allowed for the whole, as a part of its root mean square; `None` if only elements are compared.
    pub noise: Option<f64>,
}

/// An element is off if it is by more than this part of itself ..
const ELEMENT_RELATIVE: f64 = 0.01;
/// .. and by more than this.
const ELEMENT_ABSOLUTE: f64 = 1e-5;

/// How far outputs are from the right ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Largest `|a - b|`; infinite where only one of the two is a finite number.
    pub max_abs: f64,
    /// Largest `|a - b|` of an output as a part of that output's largest `|b|`.
    pub max_rel: f64,
    /// Root mean square of `a - b` as a part of that of `b`, the largest of all outputs.
    pub rms_rel: f64,
    /// The part of an output's elements that are off by more than 1 % of themselves and by more than 1e-5, the largest of all
    /// outputs. The other measures are of an output's largest number or of all of it, so that small elements beside large ones
    /// may be wrong without a trace.
    pub elements_off: f64,
    /// Largest distance in units in the last place, of floating-point outputs.
    pub max_ulp: u64,
    /// The part of the rows of quantized outputs whose largest number is where the right one is; `None` without such.
    pub top_agreement: Option<f64>,
    /// The first thing that is too far off.
    pub wrong: Option<Wrong>,
}

impl Difference {
    /// Signal to noise in decibels, computed from [`Difference::rms_rel`]. `None` for numbers that are all the same.
    pub fn snr_db(&self) -> Option<f64> {
        (self.rms_rel > 0.0 && self.rms_rel.is_finite()).then(|| decibels(self.rms_rel))
    }

    /// The larger values of both, and the first thing that is wrong.
    #[must_use]
    pub fn and(self, other: Difference) -> Difference {
        let least = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        Difference {
            max_abs: self.max_abs.max(other.max_abs),
            max_rel: self.max_rel.max(other.max_rel),
            rms_rel: self.rms_rel.max(other.rms_rel),
            elements_off: self.elements_off.max(other.elements_off),
            max_ulp: self.max_ulp.max(other.max_ulp),
            top_agreement: least(self.top_agreement, other.top_agreement),
            wrong: self.wrong.or(other.wrong),
        }
    }
}

fn decibels(rms_rel: f64) -> f64 {
    -20.0 * rms_rel.log10()
}

/// What is too far off.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum Wrong {
    /// A single number.
    Element(Divergence),
    /// An output as a whole.
    Whole { output: String, arithmetic: Arithmetic, rms_rel: f64, allowed: f64 },
    /// The order of two numbers that are far enough apart.
    Top { output: String, row: Vec<usize>, got: usize, want: usize, apart: f64, allowed: f64 },
    /// More integers differ than rounding explains.
    Share { output: String, differ: usize, of: usize, allowed: usize, first: Divergence },
}

impl Wrong {
    /// The first number that is not right, if one can be named.
    pub fn element(&self) -> Option<&Divergence> {
        match self {
            Wrong::Element(element) | Wrong::Share { first: element, .. } => Some(element),
            Wrong::Whole { .. } | Wrong::Top { .. } => None,
        }
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wrong::Element(divergence) => divergence.fmt(f),
            Wrong::Whole { output, arithmetic, rms_rel, allowed } => write!(
                f,
                "output {output} is off by {rms_rel:.1e} of its root mean square ({:.0} dB), {allowed:.1e} ({:.0} dB) is allowed for {arithmetic}",
                decibels(*rms_rel),
                decibels(*allowed)
            ),
            Wrong::Top { output, row, got, want, apart, allowed } => write!(
                f,
                "the largest number of output {output}{row:?} is at {got}, it should be at {want}: the two are {apart:.1e} apart, {allowed:.1e} is noise"
            ),
            Wrong::Share { output, differ, of, allowed, first } => write!(
                f,
                "{differ} of the {of} integers of output {output} are others, {allowed} are allowed; the first: {first}"
            ),
        }
    }
}

/// An element that is too far away.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Name of the output.
    pub output: String,
    /// Where in it.
    pub index: Vec<usize>,
    /// The engine's number.
    pub got: f64,
    /// The right number.
    pub want: f64,
    /// The largest allowed difference.
    pub allowed: f64,
}

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Divergence { output, index, got, want, allowed } = self;
        let beyond = if got == want { " (they differ beyond 53 bits)" } else { "" };
        let (got, want) = (shown(*got), shown(*want));
        write!(
            f,
            "output {output}{index:?} is {got}, {want} is right, {allowed:.1e} is allowed{beyond}"
        )
    }
}

/// Printed with the digits that the number had before it was widened.
fn shown(number: f64) -> String {
    let narrow = number as f32;
    if f64::from(narrow) == number { narrow.to_string() } else { number.to_string() }
}

/// Outputs that cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum CompareError {
    #[error("there is no output {output}; there are {given:?}")]
    Missing { output: String, given: Vec<String> },
    #[error("output {output} is {got:?}{got_shape:?}, {want:?}{want_shape:?} is right")]
    Kind { output: String, got: DType, got_shape: Vec<usize>, want: DType, want_shape: Vec<usize> },
}

/// Compares every output that has a right answer, in the order in which the model gives them.
///
/// # Errors
/// An output is missing, or of another type or shape.
pub fn compare(
    got: &[NamedTensor],
    want: &[NamedTensor],
    tolerance: &Tolerance,
) -> Result<Difference, CompareError> {
    if let Some(missing) = want.iter().find(|want| got.iter().all(|got| got.name != want.name)) {
        let given = got.iter().map(|tensor| tensor.name.clone()).collect();
        return Err(CompareError::Missing { output: missing.name.clone(), given });
    }
    let mut all = Difference::default();
    for got in got {
        let Some(want) = want.iter().find(|want| want.name == got.name) else { continue };
        let (output, got, want) = (&got.name, &got.tensor, &want.tensor);
        if (got.dtype, &got.shape) != (want.dtype, &want.shape) {
            return Err(CompareError::Kind {
                output: output.clone(),
                got: got.dtype,
                got_shape: got.shape.clone(),
                want: want.dtype,
                want_shape: want.shape.clone(),
            });
        }
        all = all.and(compare_one(output, got, want, tolerance.bounds(output)));
    }
    Ok(all)
}

/// How the elements of an output are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Numbers, which may be a little off.
    Numbers,
    /// Integers that are right or wrong.
    Exact,
    /// Integers that rounding may change, such as the places of largest numbers.
    Labels,
}

impl Kind {
    fn of(dtype: DType, arithmetic: Arithmetic) -> Kind {
        match dtype {
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Kind::Numbers,
            _ if arithmetic == Arithmetic::F32 => Kind::Exact,
            // Rounded numbers, and sums of their products.
            DType::I8 | DType::U8 | DType::I32 if arithmetic.is_quantized() => Kind::Numbers,
            DType::I8
            | DType::U8
            | DType::I16
            | DType::U16
            | DType::I32
            | DType::U32
            | DType::I64
            | DType::U64
            | DType::Bool => Kind::Labels,
        }
    }
}

fn compare_one(output: &str, got: &Tensor, want: &Tensor, bounds: Bounds) -> Difference {
    let pairs = Pairs { a: &got.numbers(), b: &want.numbers(), output, shape: &want.shape };
    let finite = || pairs.b.iter().copied().filter(|number| number.is_finite());
    let largest = finite().fold(0.0, |largest: f64, number| largest.max(number.abs()));
    let rms = root_mean_square(finite());
    let off = root_mean_square(pairs.distances());
    let max_abs = pairs.distances().fold(0.0, f64::max);
    let part = |distance: f64, of: f64| if distance == 0.0 { 0.0 } else { distance / of };
    let kind = Kind::of(want.dtype, bounds.arithmetic);
    // Integers differ by at least one whole step.
    let absolute = if want.dtype.is_float() { bounds.absolute } else { bounds.absolute.max(1.0) };
    let mut difference = Difference {
        max_abs,
        max_rel: part(max_abs, largest),
        rms_rel: part(off, rms),
        elements_off: elements_off(pairs.a, pairs.b),
        max_ulp: ulps(got, want),
        top_agreement: None,
        wrong: None,
    };
    difference.wrong = match kind {
        Kind::Exact => (got.bytes != want.bytes).then(|| {
            let width = want.dtype.wire_bytes();
            let (a, b) = (got.bytes.chunks_exact(width), want.bytes.chunks_exact(width));
            let at = a.zip(b).position(|(a, b)| a != b).unwrap_or(0);
            Wrong::Element(pairs.divergence(at, 0.0))
        }),
        Kind::Labels => pairs.labels(bounds.relative),
        Kind::Numbers => {
            let allowed = absolute + bounds.relative * largest;
            let far = pairs.distances().position(|distance| distance > allowed);
            far.map(|at| Wrong::Element(pairs.divergence(at, allowed)))
        }
    };
    if let (Kind::Numbers, Some(noise)) = (kind, bounds.noise) {
        if difference.wrong.is_none() && off > absolute + noise * rms {
            difference.wrong = Some(Wrong::Whole {
                output: output.to_owned(),
                arithmetic: bounds.arithmetic,
                rms_rel: difference.rms_rel,
                allowed: noise + part(absolute, rms),
            });
        }
        if bounds.arithmetic.is_quantized() && want.dtype.is_float() {
            let (agreement, wrong) = pairs.tops(absolute + ORDER * noise * rms);
            difference.top_agreement = agreement;
            difference.wrong = difference.wrong.or(wrong);
        }
    }
    difference
}

/// The part of the elements of `got` that are off by more than 1 % of the right one and by more than 1e-5; 0 of none.
pub fn elements_off(got: &[f64], want: &[f64]) -> f64 {
    let is_off = |(&got, &want): (&f64, &f64)| {
        let distance = distance(got, want);
        distance > ELEMENT_ABSOLUTE && distance > ELEMENT_RELATIVE * want.abs()
    };
    let off = got.iter().zip(want).filter(|&pair| is_off(pair)).count();
    if want.is_empty() { 0.0 } else { off as f64 / want.len() as f64 }
}

fn root_mean_square(numbers: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) =
        numbers.fold((0.0, 0u64), |(sum, count), number| (sum + number * number, count + 1));
    if count == 0 { 0.0 } else { (sum / count as f64).sqrt() }
}

/// Pairs of a number and the right one.
struct Pairs<'a> {
    a: &'a [f64],
    b: &'a [f64],
    output: &'a str,
    shape: &'a [usize],
}

impl Pairs<'_> {
    fn distances(&self) -> impl Iterator<Item = f64> {
        self.a.iter().zip(self.b).map(|(&a, &b)| distance(a, b))
    }

    fn divergence(&self, at: usize, allowed: f64) -> Divergence {
        Divergence {
            output: self.output.to_owned(),
            index: index(at, self.shape),
            got: self.a[at],
            want: self.b[at],
            allowed,
        }
    }

    /// At most this part of the elements may differ.
    fn labels(&self, part: f64) -> Option<Wrong> {
        let differ = self.distances().filter(|&distance| distance > 0.0).count();
        let of = self.b.len();
        let allowed = (part * of as f64) as usize;
        if differ <= allowed {
            return None;
        }
        let at = self.distances().position(|distance| distance > 0.0)?;
        let (output, first) = (self.output.to_owned(), self.divergence(at, 0.0));
        Some(Wrong::Share { output, differ, of, allowed, first })
    }

    /// The part of the rows along the last axis whose largest number is in its place, and the first row where another number is
    /// largest although the two differ by more than the noise.
    fn tops(&self, noise: f64) -> (Option<f64>, Option<Wrong>) {
        let Some((&last, before)) = self.shape.split_last() else { return (None, None) };
        if last < 2 || self.b.is_empty() {
            return (None, None);
        }
        let (mut agree, mut wrong) = (0usize, None);
        let rows = self.a.chunks_exact(last).zip(self.b.chunks_exact(last));
        let count = rows.len();
        for (row, (a, b)) in rows.enumerate() {
            let (got, want) = (place_of_largest(a), place_of_largest(b));
            let apart = b[want] - b[got];
            if got == want || apart == 0.0 {
                agree += 1;
            } else if apart > noise && wrong.is_none() {
                let output = self.output.to_owned();
                let row = index(row, before);
                wrong = Some(Wrong::Top { output, row, got, want, apart, allowed: noise });
            }
        }
        (Some(agree as f64 / count as f64), wrong)
    }
}

fn place_of_largest(row: &[f64]) -> usize {
    let larger = |best: usize, (at, &number): (usize, &f64)| {
        if number > row[best] { at } else { best }
    };
    row.iter().enumerate().fold(0, larger)
}

/// `|a - b|`; 0 for two equal infinities or two NaNs, infinite if only one is finite.
fn distance(a: f64, b: f64) -> f64 {
    if a == b || (a.is_nan() && b.is_nan()) {
        0.0
    } else if a.is_finite() && b.is_finite() {
        (a - b).abs()
    } else {
        f64::INFINITY
    }
}

/// Row-major position of an element.
fn index(at: usize, shape: &[usize]) -> Vec<usize> {
    let mut rest = at;
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let here = rest % size.max(1);
            rest /= size.max(1);
            here
        })
        .collect();
    index.reverse();
    index
}

/// Largest number of floating-point numbers between two finite ones, counted in the tensors' own type; those of 64 bits are
/// counted in `F32`, with which pages compute them.
fn ulps(got: &Tensor, want: &Tensor) -> u64 {
    fn largest<const N: usize>(a: &[u8], b: &[u8], place: impl Fn([u8; N]) -> Option<i64>) -> u64 {
        let pairs = a.as_chunks::<N>().0.iter().zip(b.as_chunks::<N>().0);
        pairs.filter_map(|(a, b)| Some(place(*a)?.abs_diff(place(*b)?))).max().unwrap_or(0)
    }
    match want.dtype {
        DType::F32 => {
            largest(&got.bytes, &want.bytes, |bytes| single_place(f32::from_le_bytes(bytes)))
        }
        DType::F64 => {
            largest(&got.bytes, &want.bytes, |bytes| single_place(f64::from_le_bytes(bytes) as f32))
        }
        // An exponent of all ones is an infinity or NaN.
        DType::F16 => largest(&got.bytes, &want.bytes, |bytes| half_place(bytes, 0x7c00)),
        DType::BF16 => largest(&got.bytes, &want.bytes, |bytes| half_place(bytes, 0x7f80)),
        DType::I64
        | DType::I32
        | DType::I16
        | DType::I8
        | DType::U64
        | DType::U32
        | DType::U16
        | DType::U8
        | DType::Bool => 0,
    }
}

/// Position of a finite number among all of its type.
fn single_place(number: f32) -> Option<i64> {
    let magnitude = i64::from(number.to_bits() & 0x7fff_ffff);
    let place = if number.is_sign_negative() { -magnitude } else { magnitude };
    number.is_finite().then_some(place)
}

/// Position of a finite 16-bit number among all of its type, whose exponent has these bits.
fn half_place(bytes: [u8; 2], exponent: u16) -> Option<i64> {
    let bits = u16::from_le_bytes(bytes);
    let magnitude = i64::from(bits & 0x7fff);
    let place = if bits & 0x8000 == 0 { magnitude } else { -magnitude };
    (bits & exponent != exponent).then_some(place)
}

#[cfg(test)]
mod tests;
