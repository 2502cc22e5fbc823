//! Compares results with the suite's expected ones.

use flotilla_tensor::{DType, NamedTensor, Tensor};

/// Absolute part of the tolerance.
const ABSOLUTE: f64 = 1e-5;
/// An element is off if it is by more than this part of itself.
const ELEMENT_RELATIVE: f64 = 0.01;
/// Part of the tolerance relative to the largest expected number of the tensor. For halves it is the distance between two of
/// them, because the suite rounds between all steps and we round only at the end.
fn relative(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        _ => 1e-4,
    }
}

/// Compares a result with the expected one: the same type and shape, integers equal, floating-point numbers a and expected ones b
/// with `|a-b| <= 1e-5 + 1e-4 max|b|` (for halves one unit in the last place of the largest), where infinities and NaN only equal
/// themselves. Returns the part of the elements that are off by more than 1 % of themselves and by more than 1e-5: an element
/// that is small beside the largest may be within the tolerance and wrong.
///
/// # Errors
/// The difference, as text.
pub fn compare(got: &Tensor, want: &NamedTensor) -> Result<f64, String> {
    let NamedTensor { name, tensor: want } = want;
    if got.dtype != want.dtype {
        return Err(format!("{name} is {:?}, {:?} expected", got.dtype, want.dtype));
    }
    if got.shape != want.shape {
        return Err(format!("{name} has shape {:?}, {:?} expected", got.shape, want.shape));
    }
    // Every integer in the suite fits 53 bits, so the numbers are exact.
    let (got, wanted) = (got.numbers(), want.numbers());
    if got.len() != wanted.len() {
        return Err(format!("{name} has {} elements, {} expected", got.len(), wanted.len()));
    }
    let largest =
        wanted.iter().filter(|number| number.is_finite()).fold(0.0f64, |max, b| max.max(b.abs()));
    let bound = if want.dtype.is_float() { ABSOLUTE + relative(want.dtype) * largest } else { 0.0 };
    let differs = |index: usize, bound: f64| {
        let (a, b) = (got[index], wanted[index]);
        !(a == b || (a.is_nan() && b.is_nan()) || (b.is_finite() && (a - b).abs() <= bound))
    };
    let wrong: Vec<usize> = (0..wanted.len()).filter(|&index| differs(index, bound)).collect();
    let Some(&first) = wrong.first() else {
        let bound = |index: usize| ABSOLUTE.max(ELEMENT_RELATIVE * wanted[index].abs());
        let off = (0..wanted.len()).filter(|&index| differs(index, bound(index))).count();
        return Ok(off as f64 / wanted.len().max(1) as f64);
    };
    Err(format!(
        "{name} has {} at element {first}, {} expected ({} of {} differ)",
        got[first],
        wanted[first],
        wrong.len(),
        wanted.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(got: &[f32], want: &[f32]) -> Result<f64, String> {
        let tensor = |values: &[f32]| Tensor::from_f32(vec![values.len()], values).expect("fits");
        compare(&tensor(got), &NamedTensor::new("y", tensor(want)))
    }

    #[test]
    fn the_tolerance_is_that_of_the_largest_number() {
        assert_eq!(check(&[0.009, 100.0], &[0.0, 100.0]), Ok(0.5), "small beside the largest");
        assert!(check(&[0.011, 100.0], &[0.0, 100.0]).is_err());
        assert_eq!(check(&[9e-6], &[0.0]), Ok(0.0));
        assert!(check(&[1.1e-5], &[0.0]).is_err());
    }

    #[test]
    fn infinities_and_nan_equal_themselves_only() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        assert_eq!(check(&[inf, -inf, nan], &[inf, -inf, nan]), Ok(0.0));
        for (got, want) in [(inf, -inf), (nan, 1.0), (1.0, nan), (3e38, inf), (inf, 3e38)] {
            assert!(check(&[got], &[want]).is_err(), "{got} {want}");
        }
        // An infinity does not increase the tolerance of its neighbours.
        assert!(check(&[inf, 1.1], &[inf, 1.0]).is_err());
    }

    #[test]
    fn integers_are_equal_and_types_and_shapes_too() {
        let want = |dtype, bytes: &[u8]| {
            NamedTensor::new("y", Tensor { dtype, shape: vec![1], bytes: bytes.to_vec() })
        };
        let got = Tensor::from_i64(vec![1], &[100_000]).expect("a tensor");
        assert_eq!(compare(&got, &want(DType::I64, &100_000i64.to_le_bytes())), Ok(0.0));
        assert!(compare(&got, &want(DType::I64, &100_001i64.to_le_bytes())).is_err());
        assert!(compare(&got, &want(DType::I32, &100_000i32.to_le_bytes())).is_err());
        let got = Tensor::from_i64(vec![1, 1], &[100_000]).expect("a tensor");
        assert!(compare(&got, &want(DType::I64, &100_000i64.to_le_bytes())).is_err());
    }
}
