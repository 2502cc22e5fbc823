//! How far a browser's numbers are from the right ones.

use flotilla_model::reference::ReferenceTensor;
use flotilla_program::DType;
use serde::Serialize;

/// What may differ: `|a - b| <= absolute + relative * max|b|`, with the largest `b` of the output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Allowed whatever the numbers are.
    pub absolute: f64,
    /// Allowed for each unit of an output's largest number.
    pub relative: f64,
}

impl Default for Tolerance {
    fn default() -> Tolerance {
        Tolerance { absolute: 1e-5, relative: 1e-4 }
    }
}

/// How far outputs are from the right ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Largest `|a - b|`; infinite where only one of the two is a finite number.
    pub max_abs: f64,
    /// Largest `|a - b|` of an output as a part of that output's largest `|b|`.
    pub max_rel: f64,
    /// Largest distance in units in the last place, of floating-point outputs.
    pub max_ulp: u64,
    /// The first element that is too far away.
    pub first: Option<Divergence>,
}

/// An element that is too far away.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Name of the output.
    pub output: String,
    /// Where in it.
    pub index: Vec<usize>,
    /// What came.
    pub got: f64,
    /// What is right.
    pub want: f64,
    /// How far away it might have been.
    pub allowed: f64,
}

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Divergence { output, index, got, want, allowed } = self;
        let (got, want) = (shown(*got), shown(*want));
        write!(f, "output {output}{index:?} is {got}, {want} is right, {allowed:.1e} is allowed")
    }
}

/// With the digits that the number had before it was widened.
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
    got: &[ReferenceTensor],
    want: &[ReferenceTensor],
    tolerance: Tolerance,
) -> Result<Difference, CompareError> {
    if let Some(missing) = want.iter().find(|want| got.iter().all(|got| got.name != want.name)) {
        let given = got.iter().map(|tensor| tensor.name.clone()).collect();
        return Err(CompareError::Missing { output: missing.name.clone(), given });
    }
    let mut all = Difference::default();
    for got in got {
        let Some(want) = want.iter().find(|want| want.name == got.name) else { continue };
        if (got.dtype, &got.shape) != (want.dtype, &want.shape) {
            return Err(CompareError::Kind {
                output: got.name.clone(),
                got: got.dtype,
                got_shape: got.shape.clone(),
                want: want.dtype,
                want_shape: want.shape.clone(),
            });
        }
        let one = compare_one(got, want, tolerance);
        all.max_abs = all.max_abs.max(one.max_abs);
        all.max_rel = all.max_rel.max(one.max_rel);
        all.max_ulp = all.max_ulp.max(one.max_ulp);
        all.first = all.first.or(one.first);
    }
    Ok(all)
}

fn compare_one(got: &ReferenceTensor, want: &ReferenceTensor, tolerance: Tolerance) -> Difference {
    let (a, b) = (got.numbers(), want.numbers());
    let finite = b.iter().filter(|number| number.is_finite());
    let largest = finite.fold(0.0, |largest: f64, number| largest.max(number.abs()));
    let allowed = if want.dtype.is_float() {
        tolerance.absolute + tolerance.relative * largest
    } else {
        // Integers and truth values are right or wrong.
        0.0
    };
    let mut difference = Difference::default();
    for (at, (&a, &b)) in a.iter().zip(&b).enumerate() {
        let distance = distance(a, b);
        difference.max_abs = difference.max_abs.max(distance);
        if distance > allowed && difference.first.is_none() {
            difference.first = Some(Divergence {
                output: got.name.clone(),
                index: index(at, &got.shape),
                got: a,
                want: b,
                allowed,
            });
        }
    }
    difference.max_rel = match (difference.max_abs, largest) {
        (0.0, _) => 0.0,
        (distance, largest) => distance / largest,
    };
    difference.max_ulp = ulps(got, want);
    difference
}

/// `|a - b|`; 0 for two that are the same infinity or both not a number, infinite where only one is finite.
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

/// Largest number of floating-point numbers between two finite ones, counted in the tensors' own type.
fn ulps(got: &ReferenceTensor, want: &ReferenceTensor) -> u64 {
    fn largest<const N: usize>(a: &[u8], b: &[u8], place: impl Fn([u8; N]) -> Option<i64>) -> u64 {
        let pairs = a.as_chunks::<N>().0.iter().zip(b.as_chunks::<N>().0);
        pairs.filter_map(|(a, b)| Some(place(*a)?.abs_diff(place(*b)?))).max().unwrap_or(0)
    }
    match want.dtype {
        DType::F32 => largest(&got.bytes, &want.bytes, |bytes| {
            let number = f32::from_le_bytes(bytes);
            let magnitude = i64::from(number.to_bits() & 0x7fff_ffff);
            let place = if number.is_sign_negative() { -magnitude } else { magnitude };
            number.is_finite().then_some(place)
        }),
        // An exponent of all ones is an infinity or not a number.
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

/// Where a finite 16-bit number stands among all of its kind, whose exponent has these bits.
fn half_place(bytes: [u8; 2], exponent: u16) -> Option<i64> {
    let bits = u16::from_le_bytes(bytes);
    let magnitude = i64::from(bits & 0x7fff);
    let place = if bits & 0x8000 == 0 { magnitude } else { -magnitude };
    (bits & exponent != exponent).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x(values: &[f32]) -> ReferenceTensor {
        ReferenceTensor::from_f32("x", vec![values.len() / 2, 2], values)
    }

    fn difference(got: &[f32], want: &[f32]) -> Difference {
        compare(&[x(got)], &[x(want)], Tolerance::default()).expect("comparable")
    }

    #[test]
    fn the_tolerance_is_of_the_outputs_largest_number() {
        let same = difference(&[1.0, -2.0], &[1.0, -2.0]);
        assert_eq!(same, Difference::default());
        // 1e-5 + 1e-4 * 100 is allowed.
        let near = difference(&[0.01, 100.0], &[0.0, 100.0]);
        assert_eq!(near.first, None);
        assert!((near.max_rel - 1e-4).abs() < 1e-9, "{near:?}");
        let far = difference(&[0.0, 100.0, 0.011, 100.0], &[0.0, 100.0, 0.0, 100.0]);
        let first = far.first.expect("it is too far");
        assert_eq!((first.index.as_slice(), first.want), (&[1, 0][..], 0.0));
        assert!(first.to_string().contains("output x[1, 0] is 0.011"), "{first}");
    }

    #[test]
    fn units_in_the_last_place_are_counted_through_zero() {
        let next = f32::from_bits(1.0f32.to_bits() + 3);
        assert_eq!(difference(&[next, 0.0], &[1.0, 0.0]).max_ulp, 3);
        let (least, minus_least) = (f32::from_bits(1), -f32::from_bits(1));
        assert_eq!(difference(&[least, 0.0], &[minus_least, -0.0]).max_ulp, 2);
    }

    #[test]
    fn what_is_not_a_number_must_be_so_in_both() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert_eq!(difference(&[nan, inf], &[nan, inf]).first, None);
        for (got, want) in [(nan, 1.0), (1.0, nan), (inf, -inf), (inf, 3.0)] {
            let difference = difference(&[0.0, got], &[0.0, want]);
            assert!(difference.max_abs.is_infinite() && difference.first.is_some(), "{got} {want}");
        }
    }

    #[test]
    fn integers_are_right_or_wrong() {
        let ids = |values: &[i64]| ReferenceTensor::from_i64("ids", vec![values.len()], values);
        let compared = |got, want| compare(&[ids(got)], &[ids(want)], Tolerance::default());
        assert_eq!(compared(&[1 << 30], &[1 << 30]), Ok(Difference::default()));
        assert!(compared(&[(1 << 30) + 1], &[1 << 30]).expect("comparable").first.is_some());
        assert!(matches!(compared(&[1, 2], &[1]), Err(CompareError::Kind { .. })));
        let missing = compare(&[ids(&[1])], &[x(&[1.0, 2.0])], Tolerance::default());
        assert!(matches!(missing, Err(CompareError::Missing { .. })));
    }
}
