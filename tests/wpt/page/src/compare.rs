//! Compares results with a case's expected ones.

use std::fmt;

use half::f16;

use crate::{
    data::{DataType, Element, Tensor, elements},
    tolerance::Tolerance,
};

/// Of the elements that are too far off, the one with the largest difference.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Difference {
    index: usize,
    got: Element,
    want: Element,
    distance: f64,
    tolerance: Tolerance,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, got, want, distance, tolerance } = self;
        let number = |element: &Element| match element {
            Element::Float(value) => value.to_string(),
            Element::Integer(value) => value.to_string(),
        };
        let (got, want) = (number(got), number(want));
        match tolerance {
            Tolerance::Ulp(most) => {
                write!(f, "element {index} is {got} and not {want}: {distance} ULP, {most} allowed")
            }
            Tolerance::Absolute(most) => {
                write!(
                    f,
                    "element {index} is {got} and not {want}: off by {distance}, {most} allowed"
                )
            }
        }
    }
}

/// Compares every element of the bytes that were read, without sampling.
pub(crate) fn compare(expected: &Tensor, bytes: &[u8], tolerance: Tolerance) -> Result<(), String> {
    let got = elements(expected.data_type, bytes);
    if got.len() != expected.count() {
        return Err(format!("{} elements and not {}", got.len(), expected.count()));
    }
    let mut worst: Option<Difference> = None;
    for (index, (got, want)) in got.zip(expected.elements()).enumerate() {
        let distance = tolerance.distance(got, want, expected.data_type);
        let is_worst = worst.as_ref().is_none_or(|worst| distance > worst.distance);
        if !tolerance.accepts(distance) && is_worst {
            worst = Some(Difference { index, got, want, distance, tolerance });
        }
    }
    worst.map_or(Ok(()), |difference| Err(difference.to_string()))
}

impl Tolerance {
    fn accepts(self, distance: f64) -> bool {
        match self {
            Tolerance::Ulp(most) => distance <= most as f64,
            Tolerance::Absolute(most) => distance <= most,
        }
    }

    /// The difference of two elements; infinite if only one is NaN.
    fn distance(self, got: Element, want: Element, data_type: DataType) -> f64 {
        match (got, want) {
            (Element::Integer(got), Element::Integer(want)) => got.abs_diff(want) as f64,
            (Element::Float(got), Element::Float(want)) => {
                if got == want || got.is_nan() && want.is_nan() {
                    return 0.0;
                }
                if got.is_nan() || want.is_nan() {
                    return f64::INFINITY;
                }
                match self {
                    Tolerance::Absolute(_) => (got - want).abs(),
                    Tolerance::Ulp(_) => {
                        place(got, data_type).abs_diff(place(want, data_type)) as f64
                    }
                }
            }
            (Element::Float(_), Element::Integer(_)) | (Element::Integer(_), Element::Float(_)) => {
                f64::INFINITY
            }
        }
    }
}

/// The position of a number among all of its type, counted from zero.
fn place(value: f64, data_type: DataType) -> i64 {
    let magnitude = if data_type == DataType::Float16 {
        i64::from(f16::from_f64(value.abs()).to_bits())
    } else {
        i64::from((value.abs() as f32).to_bits())
    };
    if value < 0.0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tensor(data_type: DataType, values: &[f64]) -> Tensor {
        let data: Vec<Value> = values.iter().map(|value| json!(value.to_string())).collect();
        let descriptor = json!({ "dataType": data_type.as_str(), "shape": [values.len()] });
        Tensor::read("y", &json!({ "descriptor": descriptor, "data": data })).expect("a tensor")
    }

    #[test]
    fn distances_are_counted_in_the_type() {
        let next = f64::from(1.0_f32.next_up());
        for (data_type, got, want, most, passes) in [
            (DataType::Float32, next, 1.0, 0, false),
            (DataType::Float32, next, 1.0, 1, true),
            (DataType::Float16, 1.0 + 1.0 / 1024.0, 1.0, 0, false),
            (DataType::Float16, 1.0 + 1.0 / 1024.0, 1.0, 1, true),
            (DataType::Float32, -0.0, 0.0, 0, true),
            (
                DataType::Float32,
                f64::from(f32::from_bits(1)),
                -f64::from(f32::from_bits(1)),
                1,
                false,
            ),
            (
                DataType::Float32,
                f64::from(f32::from_bits(1)),
                -f64::from(f32::from_bits(1)),
                2,
                true,
            ),
            (DataType::Float32, f64::NAN, f64::NAN, 0, true),
            (DataType::Float32, f64::NAN, 1.0, u64::MAX, false),
            (DataType::Float32, f64::INFINITY, f64::from(f32::MAX), 1, true),
            (DataType::Int8, -3.0, -4.0, 0, false),
        ] {
            let want = tensor(data_type, &[want]);
            let got = tensor(data_type, &[got]).bytes().expect("bytes");
            let outcome = compare(&want, &got, Tolerance::Ulp(most));
            assert_eq!(
                outcome.is_ok(),
                passes,
                "{data_type:?} {got:?} {want:?} {most}: {outcome:?}"
            );
        }
    }

    #[test]
    fn the_worst_element_is_reported() {
        let want = tensor(DataType::Float32, &[1.0, 2.0, 3.0]);
        let got = tensor(DataType::Float32, &[1.5, 4.0, 3.0]).bytes().expect("bytes");
        let reason = compare(&want, &got, Tolerance::Absolute(0.25)).expect_err("too far");
        assert_eq!(reason, "element 1 is 4 and not 2: off by 2, 0.25 allowed");
        assert!(compare(&want, &got[4..], Tolerance::Absolute(9.0)).is_err());
    }
}
