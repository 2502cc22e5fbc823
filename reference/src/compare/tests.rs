use super::*;

fn x(values: &[f32]) -> NamedTensor {
    let tensor = Tensor::from_f32(vec![values.len() / 2, 2], values);
    NamedTensor::new("x", tensor.expect("rows of two"))
}

fn difference(got: &[f32], want: &[f32]) -> Difference {
    compare(&[x(got)], &[x(want)], &Tolerance::default()).expect("comparable")
}

#[test]
fn the_tolerance_is_of_the_outputs_largest_number() {
    let same = difference(&[1.0, -2.0], &[1.0, -2.0]);
    assert_eq!(same, Difference::default());
    // An element: 1e-5 + 1e-4 * 100 is allowed.
    let near = difference(&[0.005, 100.0, 100.0, 100.0], &[0.0, 100.0, 100.0, 100.0]);
    assert_eq!(near.wrong, None);
    assert!((near.max_rel - 5e-5).abs() < 1e-9, "{near:?}");
    let far = difference(&[0.0, 100.0, 0.011, 100.0], &[0.0, 100.0, 0.0, 100.0]);
    let words = far.wrong.as_ref().expect("it is too far").to_string();
    let first = far.wrong.as_ref().and_then(Wrong::element).expect("an element");
    assert_eq!((first.index.as_slice(), first.want), (&[1, 0][..], 0.0));
    assert!(words.contains("output x[1, 0] is 0.011"), "{words}");
    // The whole: half of that for every element is too much.
    let shifted = difference(&[100.008; 4], &[100.0; 4]);
    let words = shifted.wrong.expect("all are off").to_string();
    assert!(words.contains("8.0e-5 of its root mean square (82 dB)"), "{words}");
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
    assert_eq!(difference(&[nan, inf], &[nan, inf]).wrong, None);
    for (got, want) in [(nan, 1.0), (1.0, nan), (inf, -inf), (inf, 3.0)] {
        let difference = difference(&[0.0, got], &[0.0, want]);
        assert!(difference.max_abs.is_infinite() && difference.wrong.is_some(), "{got} {want}");
    }
}

fn ids(values: &[i64]) -> NamedTensor {
    NamedTensor::new("ids", Tensor::from_i64(vec![values.len()], values).expect("fits"))
}

#[test]
fn integers_are_right_or_wrong() {
    let compared = |got, want| compare(&[ids(got)], &[ids(want)], &Tolerance::default());
    assert_eq!(compared(&[1 << 30], &[1 << 30]), Ok(Difference::default()));
    assert!(compared(&[(1 << 30) + 1], &[1 << 30]).expect("comparable").wrong.is_some());
    let large = compared(&[i64::MAX], &[i64::MAX - 1]).expect("comparable").wrong;
    assert!(large.expect("they differ").to_string().contains("53 bits"));
    assert!(matches!(compared(&[1, 2], &[1]), Err(CompareError::Kind { .. })));
    let missing = compare(&[ids(&[1])], &[x(&[1.0, 2.0])], &Tolerance::default());
    assert!(matches!(missing, Err(CompareError::Missing { .. })));
}

#[test]
fn a_given_tolerance_takes_the_place_of_the_arithmetics() {
    let loose = Tolerance { relative: Some(0.1), ..Tolerance::default() };
    let absolute = Tolerance { absolute: Some(10.0), ..Tolerance::default() };
    let is_wrong = |tolerance: Tolerance| {
        let compared = compare(&[x(&[109.0; 4])], &[x(&[100.0; 4])], &tolerance);
        compared.expect("comparable").wrong.is_some()
    };
    assert!(is_wrong(Tolerance::default()) && !is_wrong(loose) && !is_wrong(absolute));
}

#[test]
fn rounding_may_make_some_labels_others() {
    let quantized = Tolerance::of(Precision::of_all(Arithmetic::Int8Dynamic));
    let want: Vec<i64> = (0..100).collect();
    let mut got = want.clone();
    got[3] = 7;
    got[4] = 7;
    let compared =
        |got: &[i64]| compare(&[ids(got)], &[ids(&want)], &quantized).expect("comparable").wrong;
    assert_eq!(compared(&got), None);
    got[5] = 7;
    let words = compared(&got).expect("three of a hundred").to_string();
    assert!(words.contains("3 of the 100 integers") && words.contains("ids[3]"), "{words}");
}

#[test]
fn the_top_result_must_be_right_unless_it_is_a_tie() {
    let quantized = Tolerance::of(Precision::of_all(Arithmetic::Int8Dynamic));
    let row = |values: &[f32]| {
        NamedTensor::new("y", Tensor::from_f32(vec![1, values.len()], values).expect("fits"))
    };
    let compared = |got: &[f32], want: &[f32]| {
        compare(&[row(got)], &[row(want)], &quantized).expect("comparable")
    };
    let mut want = vec![0.0; 1000];
    (want[0], want[1]) = (10.0, 9.99);
    let mut got = want.clone();
    (got[0], got[1]) = (9.99, 10.0);
    let tie = compared(&got, &want);
    assert_eq!((tie.wrong, tie.top_agreement), (None, Some(0.0)));
    want[1] = 9.9;
    (got[0], got[1]) = (9.9, 9.95);
    let other = compared(&got, &want).wrong.expect("another one is on top").to_string();
    assert!(other.contains("at 1, it should be at 0"), "{other}");
}

#[test]
fn small_elements_beside_large_ones_are_counted() {
    let want = [1e4, 1.0, 1.0, 1e-6];
    let compared =
        |got: &[f32]| compare(&[x(got)], &[x(&want)], &Tolerance::default()).expect("comparable");
    let same = compared(&want);
    assert_eq!(same.elements_off, 0.0);
    // Within the tolerance of the largest number, and yet wrong.
    let off = difference(&[1e4, 1.02, 1.005, 2e-6], &want);
    assert_eq!((off.elements_off, off.wrong), (0.25, None));
}
