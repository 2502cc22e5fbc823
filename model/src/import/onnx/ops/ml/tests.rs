//! Small estimators whose features are known when the model is loaded. The right answers are onnxruntime's.

use super::super::known::{Given, Is, loaded, numbers};
use crate::import::ImportedModel;

#[track_caller]
fn check(
    version: i64,
    op: &str,
    attributes: &[(&str, Is<'_>)],
    inputs: &[Given<'_>],
    expected: &[&[f64]],
) -> ImportedModel {
    let outputs = expected.len();
    let model = loaded(("ai.onnx.ml", version), op, attributes, inputs, outputs).expect("loads");
    for (output, expected) in expected.iter().enumerate() {
        let got = numbers(&model, output);
        let near = got.len() == expected.len()
            && got.iter().zip(*expected).all(|(a, b)| {
                (a - b).abs() <= 1e-5 * b.abs().max(1.0) || (a.is_nan() && b.is_nan())
            });
        assert!(near, "output {output} of {op}: {got:?}, not {expected:?}");
    }
    model
}

#[track_caller]
fn refuse(op: &str, attributes: &[(&str, Is<'_>)], inputs: &[Given<'_>], why: &str) {
    let error = loaded(("ai.onnx.ml", 3), op, attributes, inputs, 2).expect_err("is refused");
    assert!(error.contains(why) && error.contains(op), "{error}");
}

#[test]
fn features_are_scaled_and_filled() {
    check(
        3,
        "Scaler",
        &[("offset", Is::Floats(&[0.1, 0.2])), ("scale", Is::Floats(&[2.0, 4.0]))],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[0.8, -4.8, 3.8, 0.2, -0.2, -0.8]],
    );
    check(
        3,
        "Normalizer",
        &[("norm", Is::Text("MAX"))],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[1.0, -2.0, 1.0, 0.125, 0.0, 0.0]],
    );
    check(
        3,
        "Normalizer",
        &[("norm", Is::Text("L1"))],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[0.333333, -0.666667, 0.888889, 0.111111, 0.0, 0.0]],
    );
    check(
        3,
        "Normalizer",
        &[("norm", Is::Text("L2"))],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[0.447214, -0.894427, 0.992278, 0.124035, 0.0, 0.0]],
    );
    check(
        3,
        "Imputer",
        &[
            ("imputed_value_floats", Is::Floats(&[7.0, 8.0])),
            ("replaced_value_float", Is::Float(f32::NAN)),
        ],
        &[Given::Floats(&[2, 2], &[f32::NAN, 1.0, 2.0, f32::NAN])],
        &[&[7.0, 1.0, 2.0, 8.0]],
    );
    check(
        3,
        "Imputer",
        &[("imputed_value_int64s", Is::Ints(&[9])), ("replaced_value_int64", Is::Int(0))],
        &[Given::Ints(&[2, 2], &[0, 1, 2, 0])],
        &[&[9.0, 1.0, 2.0, 9.0]],
    );
    check(
        3,
        "Binarizer",
        &[("threshold", Is::Float(0.25))],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[1.0, 0.0, 1.0, 0.0, 0.0, 0.0]],
    );
    check(
        1,
        "FeatureVectorizer",
        &[("inputdimensions", Is::Ints(&[2, 1]))],
        &[
            Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0]),
            Given::Floats(&[3, 1], &[4.0, 5.0, 6.0]),
        ],
        &[&[0.5, -1.0, 4.0, 2.0, 0.25, 5.0, 0.0, 0.0, 6.0]],
    );
}

#[test]
fn categories_are_looked_up() {
    check(
        3,
        "OneHotEncoder",
        &[("cats_int64s", Is::Ints(&[2, 5]))],
        &[Given::Ints(&[2, 2], &[5, 2, 7, 5])],
        &[&[0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]],
    );
    check(
        3,
        "OneHotEncoder",
        &[("cats_int64s", Is::Ints(&[2, 1]))],
        &[Given::Floats(&[3], &[1.9, 2.0, -1.0])],
        &[&[0.0, 1.0, 1.0, 0.0, 0.0, 0.0]],
    );
    check(
        3,
        "LabelEncoder",
        &[
            ("keys_int64s", Is::Ints(&[1, 3])),
            ("values_floats", Is::Floats(&[0.5, 0.75])),
            ("default_float", Is::Float(-2.5)),
        ],
        &[Given::Ints(&[3], &[3, 1, 4])],
        &[&[0.75, 0.5, -2.5]],
    );
    check(
        3,
        "LabelEncoder",
        &[("keys_floats", Is::Floats(&[1.5, f32::NAN])), ("values_int64s", Is::Ints(&[8, 9]))],
        &[Given::Floats(&[3], &[1.5, f32::NAN, 4.0])],
        &[&[8.0, 9.0, -1.0]],
    );
    check(
        3,
        "LabelEncoder",
        &[("keys_int64s", Is::Ints(&[1, 1])), ("values_int64s", Is::Ints(&[8, 9]))],
        &[Given::Ints(&[3], &[3, 1, 4])],
        &[&[-1.0, 8.0, -1.0]],
    );
}

#[test]
fn linear_models() {
    check(
        3,
        "LinearClassifier",
        &[
            ("coefficients", Is::Floats(&[1.0, 2.0])),
            ("intercepts", Is::Floats(&[0.1])),
            ("classlabels_ints", Is::Ints(&[3, 7])),
            ("post_transform", Is::Text("NONE")),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[3.0, 7.0, 7.0], &[2.4, -1.4, -1.6, 2.6, 0.9, 0.1]],
    );
    check(
        3,
        "LinearClassifier",
        &[
            ("coefficients", Is::Floats(&[1.0, 2.0])),
            ("intercepts", Is::Floats(&[0.1])),
            ("classlabels_ints", Is::Ints(&[3, 7])),
            ("post_transform", Is::Text("LOGISTIC")),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[3.0, 7.0, 7.0], &[0.802184, 0.197816, 0.069138, 0.930862, 0.475021, 0.524979]],
    );
    check(
        3,
        "LinearClassifier",
        &[
            ("coefficients", Is::Floats(&[1.0, 2.0])),
            ("intercepts", Is::Floats(&[0.1])),
            ("classlabels_ints", Is::Ints(&[3, 7])),
            ("post_transform", Is::Text("SOFTMAX")),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[3.0, 7.0, 7.0], &[2.4, -1.4, -1.6, 2.6, 0.9, 0.1]],
    );
    check(
        3,
        "LinearClassifier",
        &[
            ("coefficients", Is::Floats(&[1.0, 2.0, -1.0, 0.5, 0.25, -2.0])),
            ("intercepts", Is::Floats(&[0.0, 0.0, 0.0])),
            ("classlabels_ints", Is::Ints(&[4, 3, 9])),
            ("post_transform", Is::Text("NONE")),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[9.0, 4.0, 4.0], &[-1.5, -1.0, 2.125, 2.5, -1.875, 0.0, 0.0, 0.0, 0.0]],
    );
    check(
        3,
        "LinearClassifier",
        &[
            ("coefficients", Is::Floats(&[1.0, 2.0, -1.0, 0.5, 0.25, -2.0])),
            ("intercepts", Is::Floats(&[0.0, 0.0, 0.0])),
            ("classlabels_ints", Is::Ints(&[4, 3, 9])),
            ("post_transform", Is::Text("SOFTMAX_ZERO")),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[
            &[9.0, 4.0, 4.0],
            &[0.024892, 0.04104, 0.934068, 0.987568, 0.012432, 0.0, f64::NAN, f64::NAN, f64::NAN],
        ],
    );
    check(
        3,
        "LinearRegressor",
        &[
            ("coefficients", Is::Floats(&[0.1, 0.2, 0.05, -0.1])),
            ("intercepts", Is::Floats(&[0.5, 0.4])),
            ("targets", Is::Int(2)),
            ("post_transform", Is::Text("PROBIT")),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[-0.38534, 0.062706, 0.674574, -0.062706, 0.0, -0.253354]],
    );
}

#[test]
fn support_vectors() {
    check(
        3,
        "SVMRegressor",
        &[
            ("kernel_type", Is::Text("LINEAR")),
            ("kernel_params", Is::Floats(&[0.0, 0.0, 0.0])),
            ("support_vectors", Is::Floats(&[1.0, 2.0, -1.0, 0.5, 0.0, 1.0])),
            ("n_supports", Is::Int(3)),
            ("coefficients", Is::Floats(&[1.0, -2.0, 0.5])),
            ("rho", Is::Floats(&[0.25])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[0.25, 6.625, 0.25]],
    );
    check(
        3,
        "SVMRegressor",
        &[
            ("kernel_type", Is::Text("POLY")),
            ("kernel_params", Is::Floats(&[0.5, 0.25, 3.0])),
            ("support_vectors", Is::Floats(&[1.0, 2.0, -1.0, 0.5, 0.0, 1.0])),
            ("n_supports", Is::Int(3)),
            ("coefficients", Is::Floats(&[1.0, -2.0, 0.5])),
            ("rho", Is::Floats(&[0.25])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[0.148438, 4.30127, 0.242188]],
    );
    check(
        3,
        "SVMRegressor",
        &[
            ("kernel_type", Is::Text("RBF")),
            ("kernel_params", Is::Floats(&[0.5, 0.0, 0.0])),
            ("support_vectors", Is::Floats(&[1.0, 2.0, -1.0, 0.5, 0.0, 1.0])),
            ("n_supports", Is::Int(3)),
            ("coefficients", Is::Floats(&[1.0, -2.0, 0.5])),
            ("rho", Is::Floats(&[0.25])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[0.108722, 0.410715, -0.435173]],
    );
    check(
        3,
        "SVMRegressor",
        &[
            ("kernel_type", Is::Text("SIGMOID")),
            ("kernel_params", Is::Floats(&[0.5, 0.25, 0.0])),
            ("support_vectors", Is::Floats(&[1.0, 2.0, -1.0, 0.5, 0.0, 1.0])),
            ("n_supports", Is::Int(3)),
            ("coefficients", Is::Floats(&[1.0, -2.0, 0.5])),
            ("rho", Is::Floats(&[0.25])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[0.155261, 2.527074, 0.127541]],
    );
    check(
        3,
        "SVMRegressor",
        &[
            ("kernel_type", Is::Text("RBF")),
            ("kernel_params", Is::Floats(&[0.5, 0.0, 0.0])),
            ("support_vectors", Is::Floats(&[1.0, 2.0, -1.0, 0.5, 0.0, 1.0])),
            ("n_supports", Is::Int(3)),
            ("coefficients", Is::Floats(&[1.0, -2.0, 0.5])),
            ("rho", Is::Floats(&[0.25])),
            ("one_class", Is::Int(1)),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[1.0, 1.0, -1.0]],
    );
    check(
        3,
        "SVMClassifier",
        &[
            ("kernel_type", Is::Text("RBF")),
            ("kernel_params", Is::Floats(&[0.5, 0.0, 0.0])),
            ("support_vectors", Is::Floats(&[1.0, 2.0, -1.0, 0.5, 0.0, 1.0])),
            ("vectors_per_class", Is::Ints(&[1, 1, 1])),
            ("coefficients", Is::Floats(&[1.0, -2.0, 0.5, 0.75, 1.5, -1.0])),
            ("rho", Is::Floats(&[0.25, -0.5, 0.1])),
            ("classlabels_ints", Is::Ints(&[3, 7, 9])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[
            &[3.0, 3.0, 7.0],
            &[
                0.049005, -0.432931, 0.138666, 0.359637, -0.350543, 0.013994, -0.738438, -0.135171,
                0.296362,
            ],
        ],
    );
    check(
        3,
        "SVMClassifier",
        &[
            ("kernel_type", Is::Text("RBF")),
            ("kernel_params", Is::Floats(&[0.5, 0.0, 0.0])),
            ("support_vectors", Is::Floats(&[1.0, 2.0, -1.0, 0.5, 0.0, 1.0])),
            ("vectors_per_class", Is::Ints(&[1, 2])),
            ("coefficients", Is::Floats(&[1.0, -2.0, 0.5])),
            ("rho", Is::Floats(&[0.25])),
            ("prob_a", Is::Floats(&[-1.5])),
            ("prob_b", Is::Floats(&[0.2])),
            ("classlabels_ints", Is::Ints(&[3, 7])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, 0.25, 0.0, 0.0])],
        &[&[3.0, 3.0, 7.0], &[0.490772, 0.509228, 0.601903, 0.398097, 0.298854, 0.701146]],
    );
}

#[test]
fn trees() {
    check(
        3,
        "TreeEnsembleRegressor",
        &[
            ("n_targets", Is::Int(1)),
            ("aggregate_function", Is::Text("SUM")),
            ("base_values", Is::Floats(&[0.5])),
            ("nodes_treeids", Is::Ints(&[0, 0, 0, 1, 1, 1])),
            ("nodes_nodeids", Is::Ints(&[0, 1, 2, 0, 1, 2])),
            ("nodes_featureids", Is::Ints(&[0, 0, 0, 1, 0, 0])),
            ("nodes_values", Is::Floats(&[0.5, 0.0, 0.0, 0.0, 0.0, 0.0])),
            (
                "nodes_modes",
                Is::Texts(&["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_NEQ", "LEAF", "LEAF"]),
            ),
            ("nodes_truenodeids", Is::Ints(&[1, 0, 0, 1, 0, 0])),
            ("nodes_falsenodeids", Is::Ints(&[2, 0, 0, 2, 0, 0])),
            ("target_treeids", Is::Ints(&[0, 0, 1, 1])),
            ("target_nodeids", Is::Ints(&[1, 2, 1, 2])),
            ("target_ids", Is::Ints(&[0, 0, 0, 0])),
            ("target_weights", Is::Floats(&[1.0, 2.0, -4.0, 8.0])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, f32::NAN, f32::NAN, 0.0])],
        &[&[-2.5, -1.5, 10.5]],
    );
    check(
        3,
        "TreeEnsembleRegressor",
        &[
            ("n_targets", Is::Int(1)),
            ("aggregate_function", Is::Text("AVERAGE")),
            ("base_values", Is::Floats(&[0.5])),
            ("nodes_treeids", Is::Ints(&[0, 0, 0, 1, 1, 1])),
            ("nodes_nodeids", Is::Ints(&[0, 1, 2, 0, 1, 2])),
            ("nodes_featureids", Is::Ints(&[0, 0, 0, 1, 0, 0])),
            ("nodes_values", Is::Floats(&[0.5, 0.0, 0.0, 0.0, 0.0, 0.0])),
            (
                "nodes_modes",
                Is::Texts(&["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_NEQ", "LEAF", "LEAF"]),
            ),
            ("nodes_truenodeids", Is::Ints(&[1, 0, 0, 1, 0, 0])),
            ("nodes_falsenodeids", Is::Ints(&[2, 0, 0, 2, 0, 0])),
            ("target_treeids", Is::Ints(&[0, 0, 1, 1])),
            ("target_nodeids", Is::Ints(&[1, 2, 1, 2])),
            ("target_ids", Is::Ints(&[0, 0, 0, 0])),
            ("target_weights", Is::Floats(&[1.0, 2.0, -4.0, 8.0])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, f32::NAN, f32::NAN, 0.0])],
        &[&[-1.0, -0.5, 5.5]],
    );
    check(
        3,
        "TreeEnsembleRegressor",
        &[
            ("n_targets", Is::Int(1)),
            ("aggregate_function", Is::Text("MIN")),
            ("base_values", Is::Floats(&[0.5])),
            ("nodes_treeids", Is::Ints(&[0, 0, 0, 1, 1, 1])),
            ("nodes_nodeids", Is::Ints(&[0, 1, 2, 0, 1, 2])),
            ("nodes_featureids", Is::Ints(&[0, 0, 0, 1, 0, 0])),
            ("nodes_values", Is::Floats(&[0.5, 0.0, 0.0, 0.0, 0.0, 0.0])),
            (
                "nodes_modes",
                Is::Texts(&["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_NEQ", "LEAF", "LEAF"]),
            ),
            ("nodes_truenodeids", Is::Ints(&[1, 0, 0, 1, 0, 0])),
            ("nodes_falsenodeids", Is::Ints(&[2, 0, 0, 2, 0, 0])),
            ("target_treeids", Is::Ints(&[0, 0, 1, 1])),
            ("target_nodeids", Is::Ints(&[1, 2, 1, 2])),
            ("target_ids", Is::Ints(&[0, 0, 0, 0])),
            ("target_weights", Is::Floats(&[1.0, 2.0, -4.0, 8.0])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, f32::NAN, f32::NAN, 0.0])],
        &[&[-3.5, -3.5, 2.5]],
    );
    check(
        3,
        "TreeEnsembleRegressor",
        &[
            ("n_targets", Is::Int(1)),
            ("aggregate_function", Is::Text("MAX")),
            ("base_values", Is::Floats(&[0.5])),
            ("nodes_treeids", Is::Ints(&[0, 0, 0, 1, 1, 1])),
            ("nodes_nodeids", Is::Ints(&[0, 1, 2, 0, 1, 2])),
            ("nodes_featureids", Is::Ints(&[0, 0, 0, 1, 0, 0])),
            ("nodes_values", Is::Floats(&[0.5, 0.0, 0.0, 0.0, 0.0, 0.0])),
            (
                "nodes_modes",
                Is::Texts(&["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_NEQ", "LEAF", "LEAF"]),
            ),
            ("nodes_truenodeids", Is::Ints(&[1, 0, 0, 1, 0, 0])),
            ("nodes_falsenodeids", Is::Ints(&[2, 0, 0, 2, 0, 0])),
            ("target_treeids", Is::Ints(&[0, 0, 1, 1])),
            ("target_nodeids", Is::Ints(&[1, 2, 1, 2])),
            ("target_ids", Is::Ints(&[0, 0, 0, 0])),
            ("target_weights", Is::Floats(&[1.0, 2.0, -4.0, 8.0])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, f32::NAN, f32::NAN, 0.0])],
        &[&[1.5, 2.5, 8.5]],
    );
    check(
        3,
        "TreeEnsembleRegressor",
        &[
            ("n_targets", Is::Int(1)),
            ("nodes_missing_value_tracks_true", Is::Ints(&[1, 0, 0, 0, 0, 0])),
            ("nodes_treeids", Is::Ints(&[0, 0, 0, 1, 1, 1])),
            ("nodes_nodeids", Is::Ints(&[0, 1, 2, 0, 1, 2])),
            ("nodes_featureids", Is::Ints(&[0, 0, 0, 1, 0, 0])),
            ("nodes_values", Is::Floats(&[0.5, 0.0, 0.0, 0.0, 0.0, 0.0])),
            (
                "nodes_modes",
                Is::Texts(&["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_NEQ", "LEAF", "LEAF"]),
            ),
            ("nodes_truenodeids", Is::Ints(&[1, 0, 0, 1, 0, 0])),
            ("nodes_falsenodeids", Is::Ints(&[2, 0, 0, 2, 0, 0])),
            ("target_treeids", Is::Ints(&[0, 0, 1, 1])),
            ("target_nodeids", Is::Ints(&[1, 2, 1, 2])),
            ("target_ids", Is::Ints(&[0, 0, 0, 0])),
            ("target_weights", Is::Floats(&[1.0, 2.0, -4.0, 8.0])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, f32::NAN, f32::NAN, 0.0])],
        &[&[-3.0, -2.0, 9.0]],
    );
    check(
        3,
        "TreeEnsembleClassifier",
        &[
            ("classlabels_int64s", Is::Ints(&[4, 6])),
            ("nodes_treeids", Is::Ints(&[0, 0, 0, 1, 1, 1])),
            ("nodes_nodeids", Is::Ints(&[0, 1, 2, 0, 1, 2])),
            ("nodes_featureids", Is::Ints(&[0, 0, 0, 1, 0, 0])),
            ("nodes_values", Is::Floats(&[0.5, 0.0, 0.0, 0.0, 0.0, 0.0])),
            (
                "nodes_modes",
                Is::Texts(&["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_NEQ", "LEAF", "LEAF"]),
            ),
            ("nodes_truenodeids", Is::Ints(&[1, 0, 0, 1, 0, 0])),
            ("nodes_falsenodeids", Is::Ints(&[2, 0, 0, 2, 0, 0])),
            ("class_treeids", Is::Ints(&[0, 0, 1, 1])),
            ("class_nodeids", Is::Ints(&[1, 2, 1, 2])),
            ("class_ids", Is::Ints(&[0, 0, 0, 0])),
            ("class_weights", Is::Floats(&[0.25, 0.5, 0.125, 0.25])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, f32::NAN, f32::NAN, 0.0])],
        &[&[4.0, 6.0, 6.0], &[0.625, 0.375, 0.375, 0.625, 0.25, 0.75]],
    );
    check(
        3,
        "TreeEnsembleClassifier",
        &[
            ("classlabels_int64s", Is::Ints(&[4, 6])),
            ("post_transform", Is::Text("LOGISTIC")),
            ("base_values", Is::Floats(&[0.5])),
            ("nodes_treeids", Is::Ints(&[0, 0, 0, 1, 1, 1])),
            ("nodes_nodeids", Is::Ints(&[0, 1, 2, 0, 1, 2])),
            ("nodes_featureids", Is::Ints(&[0, 0, 0, 1, 0, 0])),
            ("nodes_values", Is::Floats(&[0.5, 0.0, 0.0, 0.0, 0.0, 0.0])),
            (
                "nodes_modes",
                Is::Texts(&["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_NEQ", "LEAF", "LEAF"]),
            ),
            ("nodes_truenodeids", Is::Ints(&[1, 0, 0, 1, 0, 0])),
            ("nodes_falsenodeids", Is::Ints(&[2, 0, 0, 2, 0, 0])),
            ("class_treeids", Is::Ints(&[0, 0, 1, 1])),
            ("class_nodeids", Is::Ints(&[1, 2, 1, 2])),
            ("class_ids", Is::Ints(&[0, 0, 0, 0])),
            ("class_weights", Is::Floats(&[1.0, -2.0, -0.5, 0.25])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, f32::NAN, f32::NAN, 0.0])],
        &[&[6.0, 4.0, 4.0], &[0.268941, 0.731059, 0.880797, 0.119203, 0.7773, 0.2227]],
    );
    check(
        3,
        "TreeEnsembleClassifier",
        &[
            ("classlabels_int64s", Is::Ints(&[4, 6, 9])),
            ("nodes_treeids", Is::Ints(&[0, 0, 0, 1, 1, 1])),
            ("nodes_nodeids", Is::Ints(&[0, 1, 2, 0, 1, 2])),
            ("nodes_featureids", Is::Ints(&[0, 0, 0, 1, 0, 0])),
            ("nodes_values", Is::Floats(&[0.5, 0.0, 0.0, 0.0, 0.0, 0.0])),
            (
                "nodes_modes",
                Is::Texts(&["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_NEQ", "LEAF", "LEAF"]),
            ),
            ("nodes_truenodeids", Is::Ints(&[1, 0, 0, 1, 0, 0])),
            ("nodes_falsenodeids", Is::Ints(&[2, 0, 0, 2, 0, 0])),
            ("class_treeids", Is::Ints(&[0, 0, 1, 1])),
            ("class_nodeids", Is::Ints(&[1, 2, 1, 2])),
            ("class_ids", Is::Ints(&[0, 1, 2, 2])),
            ("class_weights", Is::Floats(&[-1.0, -2.0, -0.5, -3.0])),
        ],
        &[Given::Floats(&[3, 2], &[0.5, -1.0, 2.0, f32::NAN, f32::NAN, 0.0])],
        &[&[9.0, 9.0, 6.0], &[-1.0, 0.0, -0.5, 0.0, -2.0, -0.5, 0.0, -2.0, -3.0]],
    );
}

#[test]
fn strings_are_indices_of_a_table() {
    let labels = ("classlabels_strings", Is::Texts(&["no", "yes"]));
    let rows = [Given::Floats(&[2, 1], &[1.0, -1.0])];
    let attributes =
        [labels, ("coefficients", Is::Floats(&[1.0])), ("intercepts", Is::Floats(&[0.0]))];
    let model = check(3, "LinearClassifier", &attributes, &rows, &[&[1.0, 0.0]]);
    assert_eq!(model.strings["y0"], ["no", "yes"]);
    let keys = ("keys_strings", Is::Texts(&["b", "a"]));
    let texts = [Given::Strings(&[4], &["a", "c", "b", "a"])];
    let values = [keys, ("values_int64s", Is::Ints(&[5, 6])), ("default_int64", Is::Int(-3))];
    let model = check(3, "LabelEncoder", &values, &texts, &[&[6.0, -3.0, 5.0, 6.0]]);
    assert!(model.strings.is_empty());
    let cats = [("cats_strings", Is::Texts(&["a", "b"]))];
    check(3, "OneHotEncoder", &cats, &texts, &[&[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]]);
    let classes = [
        ("classes_strings", Is::Texts(&["x", "y"])),
        ("default_string", Is::Text("none")),
        ("default_int64", Is::Int(-1)),
    ];
    let numbers = [Given::Ints(&[3], &[1, 5, 0])];
    let model = check(1, "LabelEncoder", &classes, &numbers, &[&[1.0, 2.0, 0.0]]);
    assert_eq!(model.strings["y0"], ["x", "y", "none"]);
}

#[test]
fn tables_of_strings_are_joined_where_they_meet() {
    let joined = |op: &str, attributes: &[(&str, Is<'_>)], inputs: &[Given<'_>]| {
        let model = loaded(("", 13), op, attributes, inputs, 1).expect("loads");
        let indices = numbers(&model, 0);
        let strings = model.strings.get("y0").cloned().unwrap_or_default();
        (indices, strings)
    };
    let (ab, bc) = (Given::Strings(&[2], &["a", "b"]), Given::Strings(&[2], &["b", "c"]));
    let (indices, strings) = joined("Concat", &[("axis", Is::Int(0))], &[ab, bc]);
    assert_eq!((indices, strings.join("")), (vec![0.0, 1.0, 1.0, 2.0], "abc".to_owned()));
    let (ab, bc) = (Given::Strings(&[2], &["a", "b"]), Given::Strings(&[2], &["b", "b"]));
    let (equal, strings) = joined("Equal", &[], &[ab, bc]);
    assert_eq!((equal, strings.len()), (vec![0.0, 1.0], 0));
    let numbers = [Given::Strings(&[3], &["2.5", "7", "2.5"])];
    let (parsed, strings) = joined("Cast", &[("to", Is::Int(1))], &numbers);
    assert_eq!((parsed, strings.len()), (vec![2.5, 7.0, 2.5], 0));
}

#[test]
fn what_is_not_defined_is_refused() {
    let x = || [Given::Floats(&[1, 2], &[1.0, 2.0])];
    let floats = |name, of| (name, Is::Floats(of));
    refuse("Scaler", &[floats("offset", &[0.0; 3]), floats("scale", &[1.0])], &x(), "offset");
    refuse("Scaler", &[floats("scale", &[1.0])], &x(), "offset is missing");
    refuse("Normalizer", &[("norm", Is::Text("L3"))], &x(), "\"L3\"");
    refuse("Imputer", &[], &x(), "has 0 numbers");
    refuse("ZipMap", &[("classlabels_int64s", Is::Ints(&[1]))], &x(), "labels");
    refuse("DictVectorizer", &[], &x(), "a map");
    let labels = ("classlabels_ints", Is::Ints(&[0, 1]));
    let coefficients = || floats("coefficients", &[1.0, 2.0, 3.0]);
    refuse("LinearClassifier", &[coefficients(), labels], &x(), "features");
    let labels = ("classlabels_ints", Is::Ints(&[0, 1]));
    let intercepts = floats("intercepts", &[0.0; 3]);
    refuse("LinearClassifier", &[coefficients(), labels, intercepts], &x(), "2 labels");
    let texts = [Given::Strings(&[1], &["a"])];
    refuse("Scaler", &[floats("offset", &[0.0]), floats("scale", &[1.0])], &texts, "strings");
    let huge = ("vectors_per_class", Is::Ints(&[i64::MAX; 3]));
    refuse("SVMClassifier", &[huge, coefficients()], &x(), "too many");
    let many = ("vectors_per_class", Is::Ints(&[1 << 40, 1 << 40]));
    let classes = ("classlabels_ints", Is::Ints(&[0, 1]));
    let offsets = floats("rho", &[0.0]);
    refuse("SVMClassifier", &[many, classes, offsets, coefficients()], &x(), "coefficients");
    let negative = ("vectors_per_class", Is::Ints(&[-1, 2]));
    refuse("SVMClassifier", &[negative, coefficients()], &x(), "-1 support vectors");
    let one = ("vectors_per_class", Is::Ints(&[1, 1]));
    let labels = ("classlabels_ints", Is::Ints(&[0, 1]));
    refuse("SVMClassifier", &[one, labels, floats("rho", &[0.0; 3])], &x(), "rho");
    refuse("SVMRegressor", &[("n_supports", Is::Int(1 << 40)), coefficients()], &x(), "rho");
    let many = ("n_supports", Is::Int(1 << 40));
    refuse("SVMRegressor", &[many, coefficients(), floats("rho", &[0.0])], &x(), "1099511627776");
    let targets = ("targets", Is::Int(-2));
    refuse("LinearRegressor", &[targets, coefficients()], &x(), "-2 targets");
}

#[test]
fn broken_trees_are_refused() {
    /// One root with two leaves; one list of the root's numbers is replaced.
    fn tree<'a>(
        replaced: &'a str,
        ints: &'a [i64],
        modes: &'a [&'a str],
    ) -> Vec<(&'a str, Is<'a>)> {
        let usual: [(&str, &[i64]); 8] = [
            ("nodes_treeids", &[0, 0, 0]),
            ("nodes_nodeids", &[0, 1, 2]),
            ("nodes_featureids", &[0, 0, 0]),
            ("nodes_truenodeids", &[1, 0, 0]),
            ("nodes_falsenodeids", &[2, 0, 0]),
            ("target_treeids", &[0, 0]),
            ("target_nodeids", &[1, 2]),
            ("target_ids", &[0, 0]),
        ];
        let lists = usual
            .into_iter()
            .map(|(name, list)| (name, Is::Ints(if name == replaced { ints } else { list })));
        let others = [
            ("nodes_modes", Is::Texts(modes)),
            ("nodes_values", Is::Floats(&[0.0; 3])),
            ("target_weights", Is::Floats(&[1.0, 2.0])),
            ("n_targets", Is::Int(1)),
        ];
        lists.chain(others).collect()
    }
    let modes = ["BRANCH_LEQ", "LEAF", "LEAF"];
    let x = || [Given::Floats(&[1, 2], &[1.0, 2.0])];
    check(3, "TreeEnsembleRegressor", &tree("", &[], &modes), &x(), &[&[2.0]]);
    for (replaced, ints, why) in [
        ("nodes_featureids", &[2, 0, 0][..], "feature 2 of 2"),
        ("nodes_featureids", &[-1, 0, 0], "feature -1"),
        ("nodes_truenodeids", &[0, 0, 0], "below itself"),
        ("nodes_truenodeids", &[7, 0, 0], "node 7"),
        ("nodes_nodeids", &[0, 1, 1], "there twice"),
        ("nodes_treeids", &[0, 0], "fewer or more"),
        ("target_ids", &[0, 5], "target 5 of 1"),
        ("target_nodeids", &[1, 9], "node 9"),
    ] {
        refuse("TreeEnsembleRegressor", &tree(replaced, ints, &modes), &x(), why);
    }
    let unknown = ["BRANCH_ODD", "LEAF", "LEAF"];
    refuse("TreeEnsembleRegressor", &tree("", &[], &unknown), &x(), "\"BRANCH_ODD\"");
}
