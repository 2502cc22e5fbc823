//! The arithmetic that is derived from files.

use flotilla_reference::{Arithmetic, OnnxFile};
use tract_onnx::pb::tensor_proto::DataType;

use crate::sketch::Model;

fn of(file: &OnnxFile, output: &str) -> (Arithmetic, u32) {
    let precision = file.precision(None);
    (precision.arithmetic, precision.roundings(output))
}

fn begin(element: DataType) -> Model {
    Model::default().input("x", element, &["n", "4"])
}

#[test]
fn half_precision_is_counted_along_the_longest_way() {
    let half = DataType::Float16;
    let model = begin(half).constant("w", half, &[4, 4], &[0; 32]);
    let model = model.node("MatMul", &["x", "w"], &["a"], &[]);
    let model = model.node("Transpose", &["a"], &["b"], &[]).node("Relu", &["b"], &["c"], &[]);
    let model = model.node("Tanh", &["c"], &["d"], &[]).node("Add", &["d", "x"], &["y"], &[]);
    let model = model.output("y", half, &["n", "4"]).node("Shape", &["a"], &["s"], &[]);
    let file = model.output("s", DataType::Int64, &["2"]).file();
    // The product, the hyperbolic tangent and the sum; moving numbers rounds nothing.
    assert_eq!(of(&file, "y"), (Arithmetic::F16, 3));
    let precision = file.precision(None);
    assert!((precision.noise("y") - 3f64.sqrt() / 2048.0).abs() < 1e-12);
    assert_eq!(file.precision(Some(Arithmetic::Bf16)).roundings("y"), 3);
}

#[test]
fn what_is_only_stored_narrow_is_computed_wide() {
    let model = begin(DataType::Float).constant("w", DataType::Float16, &[4], &[0; 8]);
    let model = model.node("Cast", &["w"], &["wide"], &[("to", DataType::Float as i64)]);
    let model = model.node("Add", &["x", "wide"], &["y"], &[]);
    let file = model.output("y", DataType::Float, &["n", "4"]).file();
    assert_eq!(of(&file, "y"), (Arithmetic::F32, 0));
}

#[test]
fn eight_bits_are_static_or_dynamic() {
    let float = DataType::Float;
    let model = begin(float).node("DynamicQuantizeLinear", &["x"], &["q", "s", "z"], &[]);
    let model = model.constant("w", DataType::Int8, &[4, 4], &[0; 16]);
    let model = model.node("MatMulInteger", &["q", "w", "z"], &["i"], &[]);
    let model = model.node("Cast", &["i"], &["f"], &[("to", float as i64)]);
    let model = model.node("Mul", &["f", "s"], &["y"], &[]);
    let model = model.output("y", float, &["n", "4"]).output("s", float, &[]);
    let file = model.output("z", DataType::Uint8, &[]).file();
    assert_eq!(of(&file, "y"), (Arithmetic::Int8Dynamic, 1));
    // The scale is computed in the file's type, the zero point is rounded.
    let precision = file.precision(None);
    assert_eq!((precision.roundings("s"), precision.roundings("z")), (0, 1));
    assert_eq!(precision.of_output("s"), Arithmetic::F32);

    let model = begin(float).constant("s", float, &[], &1f32.to_le_bytes());
    let model = model.constant("z", DataType::Uint8, &[], &[0]);
    let model = model.node("QuantizeLinear", &["x", "s", "z"], &["q"], &[]);
    let model = model.node("DequantizeLinear", &["q", "s", "z"], &["y"], &[]);
    let file = model.output("y", float, &["n", "4"]).file();
    assert_eq!(of(&file, "y"), (Arithmetic::Int8Static, 1));
    // Weights alone that are widened again do not round anything.
    let model = begin(float).constant("s", float, &[], &1f32.to_le_bytes());
    let model = model.constant("w", DataType::Int8, &[4], &[0; 4]);
    let model = model.node("DequantizeLinear", &["w", "s"], &["v"], &[]);
    let model = model.node("Add", &["x", "v"], &["y"], &[]).output("y", float, &["n", "4"]);
    assert_eq!(of(&model.file(), "y"), (Arithmetic::F32, 0));
}

#[test]
fn four_bits_may_be_widened_to_half_precision_and_activations_to_eight() {
    let model = |accuracy: &[(&str, i64)]| {
        let float = DataType::Float;
        let model = Model::default().input("x", float, &["n", "32"]);
        let model = model.constant("w", DataType::Uint8, &[4, 1, 16], &[0; 64]);
        let model = model.constant("s", float, &[4], &[0; 16]);
        let fixed = [("K", 32), ("N", 4), ("bits", 4), ("block_size", 32)];
        let attributes = [&fixed, accuracy].concat();
        let model =
            model.node_of("com.microsoft", "MatMulNBits", &["x", "w", "s"], &["y"], &attributes);
        model.output("y", float, &["n", "4"]).file()
    };
    assert_eq!(of(&model(&[]), "y"), (Arithmetic::Int4, 1));
    assert_eq!(of(&model(&[("accuracy_level", 1)]), "y"), (Arithmetic::Int4, 1));
    assert_eq!(of(&model(&[("accuracy_level", 4)]), "y"), (Arithmetic::Int8Dynamic, 1));
}

#[test]
fn names_are_read_back() {
    for arithmetic in Arithmetic::ALL {
        assert_eq!(arithmetic.name().parse(), Ok(arithmetic));
    }
    assert!("f8".parse::<Arithmetic>().is_err());
    assert!(Arithmetic::ALL.is_sorted());
}
