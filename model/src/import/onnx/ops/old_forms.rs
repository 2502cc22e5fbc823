//! Operators as their first versions had them. The right answers are those of onnxruntime or, for versions that it does not
//! have, NumPy's.

use super::known::{Given, Is, loaded, numbers};

#[track_caller]
fn check(
    version: i64,
    op: &str,
    attributes: &[(&str, Is<'_>)],
    inputs: &[Given<'_>],
    expected: &[&[f64]],
) {
    let model = loaded(("", version), op, attributes, inputs, expected.len()).expect("loads");
    for (output, expected) in expected.iter().enumerate() {
        let got = numbers(&model, output);
        let near = got.len() == expected.len()
            && got.iter().zip(*expected).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0));
        assert!(near, "output {output} of {op}: {got:?}, not {expected:?}");
    }
}

const X: Given<'_> = Given::Floats(&[2, 2, 2], &[1.0, -2.0, 3.0, 0.5, -1.0, 2.0, 0.0, 4.0]);

#[test]
fn types_have_names() {
    let x = || [Given::Floats(&[3], &[1.5, -2.5, 0.0])];
    check(1, "Cast", &[("to", Is::Text("INT64"))], &x(), &[&[1.0, -2.0, 0.0]]);
    check(5, "Cast", &[("to", Is::Text("BOOL"))], &x(), &[&[1.0, 1.0, 0.0]]);
    let error = loaded(("", 5), "Cast", &[("to", Is::Text("INT65"))], &x(), 1);
    assert!(error.expect_err("is refused").contains("\"INT65\""));
}

#[test]
fn operands_are_broadcast_from_an_axis() {
    let base = Given::Floats(&[2, 2, 2], &[2.0, 3.0, 4.0, 1.5, 2.0, 3.0, 1.0, 5.0]);
    let powers = Given::Floats(&[2], &[2.0, 3.0]);
    let axis = [("broadcast", Is::Int(1)), ("axis", Is::Int(1))];
    check(1, "Pow", &axis, &[base, powers], &[&[4.0, 9.0, 64.0, 3.375, 4.0, 9.0, 1.0, 125.0]]);
    let axis = [("broadcast", Is::Int(1)), ("axis", Is::Int(0))];
    let rows = Given::Floats(&[2], &[10.0, 20.0]);
    check(6, "Add", &axis, &[X, rows], &[&[11.0, 8.0, 13.0, 10.5, 19.0, 22.0, 20.0, 24.0]]);
}

#[test]
fn a_softmax_sums_over_all_from_the_axis_on() {
    let expected = [0.110554, 0.005504, 0.816888, 0.067054, 0.005807, 0.116629, 0.015784, 0.861780];
    check(11, "Softmax", &[("axis", Is::Int(1))], &[X], &[&expected]);
}

#[test]
fn statistics_may_be_those_of_single_elements() {
    let table = |numbers: &'static [f32]| Given::Floats(&[2, 2], numbers);
    let inputs = [
        X,
        table(&[2.0, 1.0, 0.5, 1.0]),
        table(&[0.0, 1.0, 2.0, 3.0]),
        table(&[1.0, 0.0, 0.5, 0.0]),
        table(&[1.0, 4.0, 0.25, 1.0]),
    ];
    let attributes = [("spatial", Is::Int(0)), ("epsilon", Is::Float(0.01))];
    let expected = [0.0, 0.00125, 4.45145, 3.49752, -3.98015, 1.99875, 1.50971, 6.98015];
    check(7, "BatchNormalization", &attributes, &inputs, &[&expected]);
}

#[test]
fn images_are_resized_by_attributes() {
    let x = || [Given::Floats(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0])];
    let doubled = [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0];
    let scales = ("scales", Is::Floats(&[1.0, 1.0, 2.0, 1.0]));
    check(7, "Upsample", &[scales], &x(), &[&doubled]);
    let scales = [("height_scale", Is::Float(2.0)), ("width_scale", Is::Float(1.0))];
    check(1, "Upsample", &scales, &x(), &[&doubled]);
    let mode = ("coordinate_transformation_mode", Is::Text("tf_half_pixel_for_nn"));
    let inputs = [
        Given::Floats(&[1, 1, 1, 3], &[1.0, 2.0, 3.0]),
        Given::Floats(&[0], &[]),
        Given::Floats(&[4], &[1.0, 1.0, 1.0, 2.0]),
    ];
    check(11, "Resize", &[mode], &inputs, &[&[1.0, 2.0, 2.0, 3.0, 3.0, 3.0]]);
}

#[test]
fn numbers_had_other_types() {
    let tiles = [X, Given::Floats(&[1], &[2.0]), Given::Floats(&[1], &[2.0])];
    let expected =
        [1.0, -2.0, 1.0, -2.0, 3.0, 0.5, 3.0, 0.5, -1.0, 2.0, -1.0, 2.0, 0.0, 4.0, 0.0, 4.0];
    check(1, "Tile", &[], &tiles, &[&expected]);
    let window = [("kernel_shape", Is::Ints(&[2])), ("p", Is::Float(2.0))];
    check(1, "LpPool", &window, &[X], &[&[2.236_068, 3.041_381, 2.236_068, 4.0]]);
    let window = [("kernel_shape", Is::Ints(&[2])), ("p", Is::Float(2.5))];
    let error = loaded(("", 1), "LpPool", &window, &[X], 1).expect_err("is refused");
    assert!(error.contains("2.5"), "{error}");
}

#[test]
fn the_mask_of_an_old_dropout_is_zero() {
    let x = || [Given::Floats(&[2], &[1.0, 2.0])];
    check(7, "Dropout", &[("ratio", Is::Float(0.3))], &x(), &[&[1.0, 2.0], &[0.0, 0.0]]);
    check(12, "Dropout", &[], &x(), &[&[1.0, 2.0], &[1.0, 1.0]]);
}
