//! Nodes of constants, which import computes. Golden numbers are onnxruntime's.

use std::collections::HashMap;

use flotilla_tensor::{DType, encode};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType,
};

use crate::import::{
    LoadOptions, MemoryResolver,
    onnx::{external::TensorFiles, read},
};

fn raw(of: DataType, dims: &[i64], bytes: Vec<u8>) -> TensorProto {
    let (dims, data_type) = (dims.to_vec(), of as i32);
    TensorProto { dims, data_type, raw_data: bytes, ..TensorProto::default() }
}

fn f32s(dims: &[i64], numbers: &[f32]) -> TensorProto {
    raw(DataType::Float, dims, encode(numbers, f32::to_le_bytes))
}

fn i64s(dims: &[i64], numbers: &[i64]) -> TensorProto {
    raw(DataType::Int64, dims, encode(numbers, i64::to_le_bytes))
}

fn i32s(dims: &[i64], numbers: &[i32]) -> TensorProto {
    raw(DataType::Int32, dims, encode(numbers, i32::to_le_bytes))
}

fn u8s(dims: &[i64], numbers: &[u8]) -> TensorProto {
    raw(DataType::Uint8, dims, numbers.to_vec())
}

fn i8s(dims: &[i64], numbers: &[i8]) -> TensorProto {
    raw(DataType::Int8, dims, encode(numbers, i8::to_le_bytes))
}

/// UINT4, packed.
fn u4s(dims: &[i64], packed: &[u8]) -> TensorProto {
    TensorProto { data_type: 21, ..raw(DataType::Uint8, dims, packed.to_vec()) }
}

/// A node of one domain with operands that are constants; `None` leaves one out.
struct Case {
    domain: &'static str,
    op: &'static str,
    operands: Vec<Option<TensorProto>>,
    attributes: Vec<(&'static str, i64)>,
    outputs: usize,
}

fn node(op: &'static str, operands: Vec<TensorProto>, attributes: &[(&'static str, i64)]) -> Case {
    let operands = operands.into_iter().map(Some).collect();
    let attributes = attributes.to_vec();
    Case { domain: "com.microsoft", op, operands, attributes, outputs: 1 }
}

impl Case {
    fn standard(self) -> Case {
        Case { domain: "", ..self }
    }

    fn without(mut self, operand: usize) -> Case {
        self.operands[operand] = None;
        self
    }

    fn with(mut self, operand: usize, tensor: TensorProto) -> Case {
        self.operands.resize(self.operands.len().max(operand + 1), None);
        self.operands[operand] = Some(tensor);
        self
    }

    fn set(mut self, name: &'static str, value: i64) -> Case {
        self.attributes.retain(|(own, _)| *own != name);
        self.attributes.push((name, value));
        self
    }

    fn model(self) -> ModelProto {
        let name = |at: usize| format!("x{at}");
        let named = self.operands.iter().enumerate();
        let initializer = named
            .filter_map(|(at, tensor)| Some(TensorProto { name: name(at), ..tensor.clone()? }));
        let input = self.operands.iter().enumerate();
        let node = NodeProto {
            name: "quantized".to_owned(),
            op_type: self.op.to_owned(),
            domain: self.domain.to_owned(),
            input: input
                .map(|(at, tensor)| tensor.as_ref().map_or_else(String::new, |_| name(at)))
                .collect(),
            output: (0..self.outputs).map(|at| format!("y{at}")).collect(),
            attribute: self
                .attributes
                .iter()
                .map(|&(name, i)| AttributeProto {
                    name: name.to_owned(),
                    r#type: AttributeType::Int as i32,
                    i,
                    ..AttributeProto::default()
                })
                .collect(),
            ..NodeProto::default()
        };
        let output = (0..self.outputs)
            .map(|at| ValueInfoProto { name: format!("y{at}"), ..ValueInfoProto::default() });
        let graph = GraphProto {
            initializer: initializer.collect(),
            output: output.collect(),
            node: vec![node],
            ..GraphProto::default()
        };
        let opset =
            |domain: &str, version| OperatorSetIdProto { domain: domain.to_owned(), version };
        ModelProto {
            graph: Some(graph),
            opset_import: vec![opset("", 21), opset("com.microsoft", 1)],
            ..ModelProto::default()
        }
    }

    /// The numbers of the first output, and its type; or the message.
    fn result(self) -> Result<(DType, Vec<f64>), String> {
        let model = self.model();
        let resolver = MemoryResolver::default();
        let own = ("model.onnx", bytes::Bytes::new());
        let files = TensorFiles::of(&model, own, &resolver).map_err(|error| error.to_string())?;
        let draft = read(model, HashMap::new(), files, &LoadOptions::named("case"));
        let draft = draft.map_err(|error| error.to_string())?;
        let port = &draft.outputs[0];
        let data = draft.constant(port.value).ok_or("it is not computed during import")?;
        Ok((port.dtype, data.dtype.decode_numbers(&data.bytes)))
    }

    #[track_caller]
    fn gives(self, dtype: DType, numbers: &[f64]) {
        let (of, got) = self.result().expect("it is imported");
        assert_eq!(of, dtype);
        let close = |a: &f64, b: &f64| (a - b).abs() <= 1e-6 + 1e-5 * b.abs();
        let all = got.len() == numbers.len() && got.iter().zip(numbers).all(|(a, b)| close(a, b));
        assert!(all, "{got:?} instead of {numbers:?}");
    }

    #[track_caller]
    fn refuses(self, reason: &str) {
        let message = self.result().expect_err("it is damaged");
        assert!(message.contains(reason), "{message:?} does not contain {reason:?}");
    }
}

/// `[1, 16]` times the transposed `[2, 16]`, 4 bits, one block for each row.
fn nbits() -> Case {
    let weights: Vec<u8> = (0..16).map(|at| at * 17).collect();
    let operands =
        vec![f32s(&[1, 16], &[1.0; 16]), u8s(&[2, 1, 8], &weights), f32s(&[2, 1], &[0.5, 2.0])];
    node("MatMulNBits", operands, &[("K", 16), ("N", 2), ("bits", 4), ("block_size", 16)])
}

#[test]
fn weights_in_blocks_are_products() {
    // Rows of 0, 0, 1, 1, .. 7, 7 and of 8, 8, .. 15, 15; without a zero point it is 8.
    nbits().gives(DType::F32, &[(56.0 - 128.0) * 0.5, (184.0 - 128.0) * 2.0]);
    nbits().with(3, u8s(&[2, 1], &[1, 3])).gives(DType::F32, &[20.0, 272.0]);
    nbits().with(3, f32s(&[2, 1], &[1.5, 3.0])).gives(DType::F32, &[16.0, 272.0]);
    nbits().with(5, f32s(&[2], &[1.0, 2.0])).gives(DType::F32, &[-35.0, 114.0]);
    nbits().with(4, i32s(&[16], &[0; 16])).gives(DType::F32, &[-36.0, 112.0]);
}

#[test]
fn damaged_weights_in_blocks_are_refused() {
    let long = u8s(&[2, 1, 9], &[0; 18]);
    nbits().with(1, long).refuses("the packed weights has the shape [2,1,9], [2, 1, 8] is needed");
    for block in [0, -16, 8, 24, i64::MAX] {
        nbits().set("block_size", block).refuses("block_size is");
    }
    nbits().set("bits", 3).refuses("bits is 3, which must be 2, 4 or 8");
    nbits().set("bits", 8).refuses("the packed weights has the shape");
    nbits().set("K", i64::MAX).refuses("K is 9223372036854775807");
    nbits().set("N", 0).refuses("N is 0");
    nbits().set("N", -2).refuses("N is -2");
    nbits().set("K", 17).refuses("the inner dimensions of a product must be equal");
    nbits().set("weight_prepacked", 1).refuses("weight_prepacked is 1");
    nbits().with(2, f32s(&[2, 2], &[1.0; 4])).refuses("the scales has the shape [2,2]");
    nbits().with(3, u8s(&[2, 2], &[0; 4])).refuses("the packed zero points has the shape");
    nbits().with(3, i8s(&[2, 1], &[0; 2])).refuses("zero points of type I8");
    nbits().with(4, i32s(&[16], &[1; 16])).refuses("g_idx names block 1 of 1");
    nbits().with(4, i32s(&[3], &[0; 3])).refuses("g_idx has the shape [3]");
    nbits().with(5, f32s(&[3], &[0.0; 3])).refuses("the bias has the shape [3]");
    let message = nbits().set("bits", 3).result().expect_err("it is refused");
    assert!(message.starts_with("node quantized (MatMulNBits of F32[1,16], U8[2,1,8], F32[2,1])"));
}

#[test]
fn codes_of_bitsandbytes_are_products() {
    let weights: Vec<u8> = (0..16).map(|at| at * 16 + 7).collect();
    let case = |kind: i64| {
        let operands =
            vec![f32s(&[1, 16], &[1.0; 16]), u8s(&[16], &weights), f32s(&[2], &[1.0, 3.0])];
        let attributes = [("K", 16), ("N", 2), ("block_size", 16), ("quant_type", kind)];
        node("MatMulBnb4", operands, &attributes)
    };
    case(0).gives(DType::F32, &[4.921_875, -2.765_625]);
    case(1).gives(DType::F32, &[-3.176_448, 10.652_465]);
    case(2).refuses("quant_type is 2");
    case(0).set("block_size", 20).refuses("block_size is 20");
    case(0).set("N", 3).refuses("the packed weights has the shape [16], [24] is needed");
    case(0).with(2, f32s(&[1], &[1.0])).refuses("the scales (absmax) has the shape [1]");
}

#[test]
fn rows_of_a_quantized_table_are_gathered() {
    let case = |indices: &[i64]| {
        let data: Vec<u8> = (0..24).collect();
        let operands = vec![
            u8s(&[3, 8], &data),
            i64s(&[indices.len() as i64], indices),
            f32s(&[3, 1], &[1.0, 0.5, 2.0]),
        ];
        node("GatherBlockQuantized", operands, &[("block_size", 16)])
    };
    let row = |first: i64, scale: f64| {
        (first..first + 8)
            .flat_map(move |byte| [byte & 15, byte >> 4].map(|number| (number - 8) as f64 * scale))
    };
    let want: Vec<f64> = row(16, 2.0).chain(row(0, 1.0)).collect();
    case(&[2, 0]).gives(DType::F32, &want);
    case(&[-1, -3]).gives(DType::F32, &want);
    let nothing = vec![0.0; 16];
    case(&[3]).gives(DType::F32, &nothing);
    case(&[i64::MIN]).gives(DType::F32, &nothing);
    case(&[0]).set("block_size", 15).refuses("block_size is 15");
    case(&[0]).set("block_size", 0).refuses("block_size is 0");
    case(&[0]).set("bits", 5).refuses("bits is 5");
    case(&[0]).set("gather_axis", 1).refuses("gather_axis is 1, and must be 0");
    case(&[0]).set("quantize_axis", 0).refuses("quantize_axis is 0");
    case(&[0]).set("quantize_axis", 2).refuses("axis 2 is not one of 2");
    case(&[0]).set("bits", 2).refuses("the scales and the blocks of an axis must be equal");
    case(&[0]).with(3, i8s(&[3, 1], &[0; 3])).refuses("a zero point of type I8");
    case(&[0]).with(3, u8s(&[3, 2], &[0; 6])).refuses("must be equal, and are 2 and 1");
}

#[test]
fn zero_points_of_another_type_are_refused() {
    let quantize = |zero: TensorProto| {
        node("QuantizeLinear", vec![f32s(&[3], &[-1.0, 0.4, 90.0]), f32s(&[], &[0.5]), zero], &[])
    };
    quantize(u8s(&[], &[5])).standard().gives(DType::U8, &[3.0, 6.0, 185.0]);
    quantize(i8s(&[], &[5])).standard().gives(DType::I8, &[3.0, 6.0, 127.0]);
    quantize(u4s(&[], &[5])).standard().gives(DType::U8, &[3.0, 6.0, 15.0]);
    quantize(f32s(&[], &[5.0])).standard().refuses("numbers cannot be quantized to F32");
    let both = quantize(u8s(&[], &[5])).standard().set("output_dtype", 3);
    both.refuses("a zero point of type U8 and output_dtype I8");
    quantize(u8s(&[2], &[5, 6])).standard().refuses("a scale of shape [] and a zero point");

    let dequantize = |zero: TensorProto| {
        node("DequantizeLinear", vec![u8s(&[2], &[3, 200]), f32s(&[], &[0.5]), zero], &[])
            .standard()
    };
    dequantize(u8s(&[], &[5])).gives(DType::F32, &[-1.0, 97.5]);
    dequantize(i8s(&[], &[5])).refuses("a zero point of type I8 for numbers of type U8");
    dequantize(u4s(&[], &[5])).refuses("a zero point of type UINT4 for numbers of type U8");
    let scales = || dequantize(u8s(&[], &[5])).without(2).with(1, f32s(&[3], &[1.0; 3]));
    scales().set("axis", 0).refuses("the scales and the positions on their axis must be equal");
    scales().set("axis", 1).refuses("axis 1 is not one of 1");
    let microsoft = Case { domain: "com.microsoft", ..scales() };
    microsoft.refuses("a scale of shape [3] without an axis");
    let blocks = dequantize(u8s(&[], &[5])).without(2).with(1, f32s(&[2], &[1.0; 2]));
    blocks.set("axis", 0).set("block_size", 2).refuses("must be equal, and are 2 and 1");
    let negative = dequantize(u8s(&[], &[5])).set("block_size", -2);
    negative.refuses("block_size is negative or too large");
    let integers = || node("DequantizeLinear", vec![i32s(&[1], &[7]), f32s(&[], &[0.5])], &[]);
    integers().standard().gives(DType::F32, &[3.5]);
    integers().standard().with(2, i32s(&[], &[1])).refuses("a zero point of type I32 must be 0");
}

/// As onnxruntime gives them: a scale of 0 makes infinities, and the least integer of `0 / 0`.
#[test]
fn a_scale_of_zero_saturates() {
    let numbers = f32s(&[3], &[0.0, 1.0, -1.0]);
    let case = |zero| node("QuantizeLinear", vec![numbers.clone(), f32s(&[], &[0.0]), zero], &[]);
    case(u8s(&[], &[7])).standard().gives(DType::U8, &[0.0, 255.0, 0.0]);
    case(i8s(&[], &[7])).standard().gives(DType::I8, &[-128.0, 127.0, -128.0]);
}

#[test]
fn packed_tensors_must_have_the_bytes_of_their_elements() {
    let case = |dims: &[i64], packed: &[u8]| {
        node("DequantizeLinear", vec![u4s(dims, packed), f32s(&[], &[0.5])], &[]).standard()
    };
    case(&[3], &[0x21, 0x0f]).gives(DType::F32, &[0.5, 1.0, 7.5]);
    case(&[3], &[0x21]).refuses("1 bytes for 3 elements of type UINT4, 2 are needed");
    case(&[-1], &[0x21]).refuses("cannot be read");
    case(&[i64::MAX, 3], &[0x21]).refuses("an impossible shape");
    let add = node("Add", vec![u4s(&[2], &[0x21]), u4s(&[2], &[0x21])], &[]).standard();
    add.refuses("elements of type UINT4 are not supported here");
}

#[test]
fn quantized_elements_are_computed_as_floats() {
    let case = |op| {
        let operands = vec![
            u8s(&[3], &[0, 100, 255]),
            f32s(&[], &[0.02]),
            u8s(&[], &[100]),
            u8s(&[3], &[10, 20, 30]),
            f32s(&[], &[0.1]),
            u8s(&[], &[15]),
            f32s(&[], &[0.05]),
            u8s(&[], &[128]),
        ];
        node(op, operands, &[])
    };
    case("QLinearAdd").gives(DType::U8, &[78.0, 138.0, 220.0]);
    case("QLinearMul").gives(DType::U8, &[148.0, 128.0, 221.0]);
    case("QLinearAdd").with(2, i8s(&[], &[1])).refuses("a zero point of type I8");
    case("QLinearAdd").with(1, f32s(&[2], &[1.0; 2])).refuses("its scale has the shape [2]");
    case("QLinearAdd")
        .with(3, i8s(&[3], &[0; 3]))
        .with(5, i8s(&[], &[0]))
        .refuses("types U8 and I8");
    case("QLinearAdd").with(0, i32s(&[3], &[0; 3])).refuses("an operand is of type I32");
    case("QLinearMul").with(6, f32s(&[], &[0.0])).refuses("the scale of the result is 0");
    case("QLinearAdd").without(6).refuses("operand 6 is missing");
}

#[test]
fn what_only_devices_have_is_refused_by_name() {
    for op in ["QMoE", "DynamicTimeWarping", "QOrderedMatMul", "MatMulFpQ4"] {
        node(op, vec![f32s(&[1], &[1.0])], &[]).refuses(&format!("com.microsoft.{op}"));
    }
    node("QGelu", vec![f32s(&[1], &[1.0])], &[]).refuses("domain \"com.microsoft\"");
}

#[test]
fn damaged_attention_refuses() {
    let case = || {
        let operands = vec![
            u8s(&[1, 2, 4], &[1; 8]),
            u8s(&[4, 12], &[1; 48]),
            f32s(&[12], &[0.0; 12]),
            f32s(&[], &[1.0]),
            f32s(&[], &[1.0]),
        ];
        node("QAttention", operands, &[("num_heads", 2)])
    };
    case().gives(DType::F32, &[4.0; 8]);
    case().set("num_heads", 3).refuses("queries, keys and values of 3 heads");
    case().set("num_heads", 0).refuses("num_heads is 0");
    case().set("do_rotary", 1).refuses("do_rotary is not supported");
    case().with(4, f32s(&[5], &[1.0; 5])).refuses("the scale of the weights has the shape [5]");
    case().with(5, i32s(&[1, 1, 2, 2], &[1; 4])).refuses("a mask of shape [1,1,2,2]");
    case().with(6, i8s(&[], &[1])).refuses("a zero point of type I8");
    case().with(8, f32s(&[2, 1], &[1.0; 2])).refuses("a past of 2 dimensions");
    let past = f32s(&[1, 1, 2, 1, 2], &[1.0; 4]);
    case().with(8, past).refuses("the keys and values of the past must be equal, and are 1 and 2");
    case().with(2, f32s(&[1], &[1.0])).refuses("the elements of the bias and the columns");
}
