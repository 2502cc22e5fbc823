//! Both engines on small files.

use std::path::Path;

use flotilla_reference::{
    Engine, FileError, LibraryError, OnnxFile, OnnxRuntime, ReferenceError, Wanted,
};
use flotilla_tensor::{DType, NamedTensor};
use tract_onnx::pb::tensor_proto::DataType;

use crate::sketch::{Model, engines, floats, library, read, tensor};

fn run(
    engine: &Engine,
    file: &OnnxFile,
    inputs: &[NamedTensor],
) -> Result<Vec<NamedTensor>, ReferenceError> {
    engine.open(file)?.run(inputs, Wanted::All)
}

#[test]
fn external_data_are_read_through_the_resolver() {
    let model = || {
        let at = [("location", "data/w.bin"), ("offset", "4"), ("length", "8")];
        let model = Model::default().input("x", DataType::Float, &["n", "2"]);
        let model = model.external("w", &[2], &at).node("Add", &["x", "w"], &["y"], &[]);
        model.output("y", DataType::Float, &["n", "2"]).bytes()
    };
    let data = floats(&[9.0, 10.0, 20.0]);
    let file = read(model(), &[("data/w.bin", data.clone())]).expect("all is there");
    for engine in engines() {
        let mut reference = engine.open(&file).expect("opens");
        for rows in [1, 2] {
            let x = tensor("x", DType::F32, &[rows, 2], floats(&[1.0, 2.0, 3.0, 4.0][..2 * rows]));
            let y = reference.run(&[x], Wanted::All).expect("runs");
            let want = &[11.0, 22.0, 13.0, 24.0][..2 * rows];
            assert_eq!(y, [tensor("y", DType::F32, &[rows, 2], floats(want))], "{engine:?}");
        }
    }
    assert!(matches!(read(model(), &[]), Err(FileError::Resolve(_))));
    let short = read(model(), &[("data/w.bin", data[..8].to_vec())]);
    assert!(matches!(short, Err(FileError::External { .. })), "{short:?}");
}

#[test]
fn every_type_comes_back_as_it_went_in() {
    let types = [
        (DType::F32, DataType::Float),
        (DType::F64, DataType::Double),
        (DType::F16, DataType::Float16),
        (DType::BF16, DataType::Bfloat16),
        (DType::I64, DataType::Int64),
        (DType::I32, DataType::Int32),
        (DType::I16, DataType::Int16),
        (DType::I8, DataType::Int8),
        (DType::U64, DataType::Uint64),
        (DType::U32, DataType::Uint32),
        (DType::U16, DataType::Uint16),
        (DType::U8, DataType::Uint8),
        (DType::Bool, DataType::Bool),
    ];
    for engine in engines() {
        for (dtype, of) in types {
            let model = Model::default().input("x", of, &["a", "2"]);
            let model = model.node("Transpose", &["x"], &["y"], &[]).output("y", of, &["2", "a"]);
            let element = |at: u8| -> Vec<u8> {
                let bytes = dtype.wire_bytes();
                (0..bytes).map(|byte| if byte == 0 { at } else { 0 }).collect()
            };
            let x = tensor("x", dtype, &[1, 2], [element(0), element(1)].concat());
            let got = run(&engine, &model.file(), &[x]);
            match (&engine, dtype) {
                (Engine::Tract, DType::BF16) => assert!(got.is_err()),
                _ => {
                    let want = tensor("y", dtype, &[2, 1], [element(0), element(1)].concat());
                    assert_eq!(got, Ok(vec![want]), "{} {dtype:?}", engine.name());
                }
            }
        }
        // All 64 bits are kept.
        let doubles = |name: &str, values: [f64; 2]| {
            tensor(name, DType::F64, &[2], values.map(f64::to_le_bytes).concat())
        };
        let model = Model::default().input("x", DataType::Double, &["2"]);
        let model = model.node("Neg", &["x"], &["y"], &[]).output("y", DataType::Double, &["2"]);
        let (x, want) = (doubles("x", [0.1, -3.0]), doubles("y", [-0.1, 3.0]));
        assert_eq!(run(&engine, &model.file(), &[x]), Ok(vec![want]), "{}", engine.name());
    }
}

#[test]
fn inputs_that_decide_shapes_are_known_to_both() {
    for engine in engines() {
        let model = Model::default().input("x", DataType::Float, &["a", "b"]);
        let model = model.input("shape", DataType::Int64, &["3"]);
        let model = model.node("Reshape", &["x", "shape"], &["y"], &[]);
        let file = model.output("y", DataType::Float, &["c", "d", "e"]).file();
        let x = tensor("x", DType::F32, &[2, 3], floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        for shape in [[3, 2, 1], [1, 1, 6]] {
            let wanted = tensor("shape", DType::I64, &[3], shape.map(i64::to_le_bytes).concat());
            let got = run(&engine, &file, &[wanted, x.clone()]).expect("runs");
            assert_eq!(got[0].tensor.shape, shape.map(|dim| dim as usize), "{}", engine.name());
        }
    }
}

#[test]
fn what_cannot_be_compared_is_named_if_it_is_wanted() {
    let file = Model::default()
        .input("x", DataType::Float, &["2"])
        .node("Cast", &["x"], &["words"], &[("to", DataType::String as i64)])
        .output("words", DataType::String, &["2"])
        .node("SequenceConstruct", &["x", "x"], &["list"], &[])
        .node("Neg", &["x"], &["y"], &[])
        .output("y", DataType::Float, &["2"]);
    let file = file.file();
    let x = tensor("x", DType::F32, &[2], floats(&[1.0, 2.0]));
    for engine in engines().into_iter().filter(|engine| matches!(engine, Engine::OnnxRuntime(_))) {
        let mut reference = engine.open(&file).expect("opens");
        let error = reference.run(std::slice::from_ref(&x), Wanted::All).expect_err("text");
        assert!(
            matches!(&error, ReferenceError::Output { name, .. } if name == "words"),
            "{error}"
        );
        let wanted = ["y".to_owned()];
        let y = reference.run(std::slice::from_ref(&x), Wanted::Named(&wanted)).expect("numbers");
        assert_eq!(y, [tensor("y", DType::F32, &[2], floats(&[-1.0, -2.0]))]);
    }
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let model = Model::default().input("x", DataType::Float, &["n", "2"]);
    let model = model.input("z", DataType::Float, &["n", "2"]);
    let model = model.node("Add", &["x", "z"], &["y"], &[]);
    let file = model.output("y", DataType::Float, &["n", "2"]).file();
    assert_eq!((file.inputs().collect(), file.outputs().collect()), (vec!["x", "z"], vec!["y"]));
    let x = tensor("x", DType::F32, &[1, 2], floats(&[1.0, 2.0]));
    let z = NamedTensor::new("z", x.tensor.clone());
    let other = NamedTensor::new("other", x.tensor.clone());
    let short = tensor("z", DType::F32, &[2, 2], floats(&[1.0, 2.0]));
    let wide = tensor("z", DType::F32, &[1, 3], floats(&[0.0; 3]));
    let whole = tensor("z", DType::I64, &[1, 2], [1i64, 2].map(i64::to_le_bytes).concat());
    for engine in engines() {
        let run = |inputs: &[&NamedTensor]| {
            let inputs: Vec<NamedTensor> = inputs.iter().map(|&input| input.clone()).collect();
            run(&engine, &file, &inputs)
        };
        run(&[&z, &x]).expect("the order does not matter");
        let unknown = run(&[&x, &z, &other]).expect_err("unknown");
        assert!(matches!(unknown, ReferenceError::Unknown { name, .. } if name == "other"));
        let missing = run(&[&x]).expect_err("missing");
        assert!(matches!(missing, ReferenceError::Missing { name } if name == "z"));
        assert!(matches!(run(&[&x, &short]), Err(ReferenceError::Length { .. })));
        for wrong in [&wide, &whole] {
            let error = run(&[&x, wrong]).expect_err("it does not fit");
            let engine = engine.name();
            assert!(matches!(error, ReferenceError::Run { .. }), "{error}");
            assert!(error.to_string().contains(engine), "{error}");
        }
    }
}

#[test]
fn broken_files_are_errors() {
    let whole = || {
        let model = Model::default().input("x", DataType::Float, &["2"]);
        model.node("Neg", &["x"], &["y"], &[]).output("y", DataType::Float, &["2"])
    };
    let bytes = whole().bytes();
    for bad in [&bytes[..bytes.len() - 3], b"this is no protobuf", b""] {
        assert!(matches!(read(bad.to_vec(), &[]), Err(FileError::Decode { .. })));
    }
    let long = whole().constant("w", DataType::Float, &[1 << 40], &[0; 8]).bytes();
    assert!(matches!(read(long, &[]), Err(FileError::Length { .. })));
    let none = whole().constant("w", DataType::Float, &[i64::MAX, 16], &[]).bytes();
    assert!(matches!(read(none, &[]), Err(FileError::Length { .. })));
    let outside = whole().external("w", &[2], &[("location", "../secret")]).bytes();
    assert!(matches!(read(outside, &[]), Err(FileError::Resolve(_))));
    // The engines refuse a file that can be read but is not a valid model.
    let unknown = whole().node("Frobnicate", &["y"], &["z"], &[]);
    let unknown = unknown.output("z", DataType::Float, &["2"]).file();
    let cyclic = Model::default().input("x", DataType::Float, &["2"]);
    let cyclic = cyclic.node("Add", &["x", "b"], &["a"], &[]).node("Neg", &["a"], &["b"], &[]);
    let cyclic = cyclic.output("b", DataType::Float, &["2"]).file();
    let x = tensor("x", DType::F32, &[2], floats(&[1.0, 2.0]));
    for engine in engines() {
        for file in [&unknown, &cyclic] {
            let error = run(&engine, file, std::slice::from_ref(&x)).expect_err("it is broken");
            let words = error.to_string();
            assert!(words.contains(engine.name()) && !words.contains('\n'), "{words}");
        }
    }
}

#[test]
fn tract_refuses_operators_of_other_domains() {
    let model = Model::default().input("x", DataType::Float, &["2"]);
    let model = model.node_of("com.microsoft", "Gelu", &["x"], &["y"], &[]);
    let file = model.output("y", DataType::Float, &["2"]).file();
    let error = Engine::Tract.open(&file).expect_err("not ONNX's operator").to_string();
    assert!(error.contains("Gelu") && error.contains("com.microsoft"), "{error}");
}

/// Pairs of products that 16 bits do not hold.
#[test]
fn products_of_unsigned_and_signed_integers_do_not_saturate() {
    const DEPTH: usize = 64;
    let Some(library) = library() else { return };
    let (a, b) = (vec![250u8; DEPTH], vec![120i8; DEPTH]);
    let weights: Vec<u8> = b.iter().map(|&number| number as u8).collect();
    let want = 250 * 120 * DEPTH as i32;
    let x = tensor("a", DType::U8, &[1, DEPTH], a);
    let depth = DEPTH as i64;
    let port = DEPTH.to_string();
    let begin = || {
        let model = Model::default().input("a", DataType::Uint8, &["1", &port]);
        model.constant("b", DataType::Int8, &[depth, 1], &weights)
    };
    // Without zero points, and with a zero point that changes nothing.
    let model = begin().node("MatMulInteger", &["a", "b"], &["y"], &[]);
    let bare = model.output("y", DataType::Int32, &["1", "1"]).file();
    let model = begin().constant("za", DataType::Uint8, &[], &[0]);
    let model = model.constant("zb", DataType::Int8, &[], &[0]);
    let model = model.node("MatMulInteger", &["a", "b", "za", "zb"], &["y"], &[]);
    let with_zero_points = model.output("y", DataType::Int32, &["1", "1"]).file();
    let engine = Engine::OnnxRuntime(library);
    for file in [bare, with_zero_points] {
        let got = run(&engine, &file, std::slice::from_ref(&x)).expect("runs");
        assert_eq!(got, [tensor("y", DType::I32, &[1, 1], want.to_le_bytes().to_vec())]);
    }
    let scale = floats(&[want as f32 / 100.0]);
    let one = floats(&[1.0]);
    let model = begin().constant("one", DataType::Float, &[], &one);
    let model = model.constant("scale", DataType::Float, &[], &scale);
    let model = model.constant("za", DataType::Uint8, &[], &[0]);
    let model = model.constant("zb", DataType::Int8, &[], &[0]);
    let inputs = ["a", "one", "za", "b", "one", "zb", "scale", "za"];
    let model = model.node("QLinearMatMul", &inputs, &["y"], &[]);
    let file = model.output("y", DataType::Uint8, &["1", "1"]).file();
    let got = run(&engine, &file, &[x]).expect("runs");
    assert_eq!(got, [tensor("y", DType::U8, &[1, 1], vec![100])]);
}

#[test]
fn a_library_that_cannot_be_loaded_is_named() {
    let missing = Path::new("/no/such/libonnxruntime.so");
    let error = OnnxRuntime::load(missing).expect_err("it is not there");
    assert!(error.to_string().contains("/no/such/libonnxruntime.so"), "{error}");
    let Some(library) = library() else { return };
    assert!(library.version().starts_with("1."), "{}", library.version());
    assert_eq!(OnnxRuntime::load(library.path()).expect("again").path(), library.path());
    let another = OnnxRuntime::load(missing).expect_err("a process has one");
    assert!(matches!(another, LibraryError::Another { .. }), "{another}");
}
