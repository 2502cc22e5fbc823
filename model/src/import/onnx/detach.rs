//! Takes the large tensors out of a model's file before it is decoded, so that the decoded graph does not hold a second copy of
//! the weights.

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// Smaller tensors stay in the graph.
const DETACHED_BYTES_MIN: usize = 4 << 10;
/// Deepest nesting that is looked into, as the decoder's own limit.
const DEPTH_MAX: usize = 100;

/// Numbers of fields of `TensorProto`. Source: ONNX, `onnx.proto3`.
const RAW_DATA: u32 = 9;
const EXTERNAL_DATA: u32 = 13;
const DATA_LOCATION: u32 = 14;
/// The value of `DataLocation.EXTERNAL`.
const EXTERNAL: u64 = 1;

/// Messages of an ONNX file in which tensors may be.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Tensor,
}

impl Message {
    /// What a field holds, if tensors may be in it. Source: ONNX, `onnx.proto3`.
    fn field(self, number: u32) -> Option<Message> {
        Some(match (self, number) {
            (Message::Model, 7) | (Message::Attribute, 6 | 11) => Message::Graph,
            (Message::Model, 25) => Message::Function,
            (Message::Graph, 1) | (Message::Function, 7) => Message::Node,
            (Message::Node, 5) => Message::Attribute,
            (Message::Graph, 5) | (Message::Attribute, 5 | 10) => Message::Tensor,
            _ => return None,
        })
    }
}

/// One field of a message.
struct Field<'f> {
    number: u32,
    /// With its key.
    whole: &'f [u8],
    /// The contents of a field with a length.
    contents: Option<&'f [u8]>,
}

/// The same file in which large tensors refer to bytes of `file`, the file's name, as external data do. `None` if it is not a
/// sequence of protocol buffers' fields.
pub(super) fn detached(bytes: &[u8], file: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    message(Message::Model, bytes, bytes, file, &mut out, 0)?;
    Some(out)
}

fn message(
    kind: Message,
    bytes: &[u8],
    all: &[u8],
    file: &str,
    out: &mut Vec<u8>,
    depth: usize,
) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    if matches!(kind, Message::Tensor) {
        return tensor(bytes, all, file, out);
    }
    for field in fields(bytes) {
        let Field { number, whole, contents } = field?;
        match (kind.field(number), contents) {
            (Some(inner), Some(contents)) => {
                let mut changed = Vec::new();
                message(inner, contents, all, file, &mut changed, depth + 1)?;
                put(number, &changed, out);
            }
            _ => out.extend_from_slice(whole),
        }
    }
    Some(())
}

/// A tensor, without its raw data if they are large and nothing contradicts them.
fn tensor(bytes: &[u8], all: &[u8], file: &str, out: &mut Vec<u8>) -> Option<()> {
    let fields: Vec<Field<'_>> = fields(bytes).collect::<Option<_>>()?;
    let mut raw = fields.iter().filter(|field| field.number == RAW_DATA);
    let (first, second) = (raw.next().and_then(|field| field.contents), raw.next());
    let is_plain = second.is_none()
        && fields.iter().all(|field| ![EXTERNAL_DATA, DATA_LOCATION].contains(&field.number));
    let Some(data) = first.filter(|data| data.len() >= DETACHED_BYTES_MIN && is_plain) else {
        out.extend_from_slice(bytes);
        return Some(());
    };
    for field in fields.iter().filter(|field| field.number != RAW_DATA) {
        out.extend_from_slice(field.whole);
    }
    let offset = data.as_ptr() as usize - all.as_ptr() as usize;
    let entries = [
        ("location", file.to_owned()),
        ("offset", offset.to_string()),
        ("length", data.len().to_string()),
    ];
    for (key, value) in entries {
        let mut entry = Vec::new();
        put(1, key.as_bytes(), &mut entry);
        put(2, value.as_bytes(), &mut entry);
        put(EXTERNAL_DATA, &entry, out);
    }
    encode_key(DATA_LOCATION, WireType::Varint, out);
    encode_varint(EXTERNAL, out);
    Some(())
}

fn put(number: u32, contents: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(contents.len() as u64, out);
    out.extend_from_slice(contents);
}

/// The fields of a message, up to one that is cut short.
fn fields(bytes: &[u8]) -> impl Iterator<Item = Option<Field<'_>>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field)
    })
}

fn field<'f>(rest: &mut &'f [u8]) -> Option<Field<'f>> {
    let start = *rest;
    let (number, wire) = decode_key(rest).ok()?;
    let (skipped, is_sized) = match wire {
        WireType::Varint => {
            decode_varint(rest).ok()?;
            (0, false)
        }
        WireType::SixtyFourBit => (8, false),
        WireType::ThirtyTwoBit => (4, false),
        WireType::LengthDelimited => (usize::try_from(decode_varint(rest).ok()?).ok()?, true),
        // Groups do not occur in ONNX.
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    let (contents, after) = rest.split_at_checked(skipped)?;
    *rest = after;
    let whole = &start[..start.len() - after.len()];
    Some(Field { number, whole, contents: is_sized.then_some(contents) })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use tract_onnx::pb::{
        AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto,
        tensor_proto::{DataLocation, DataType},
    };

    use super::*;

    fn tensor(bytes: usize) -> TensorProto {
        TensorProto {
            name: format!("t{bytes}"),
            dims: vec![bytes as i64],
            data_type: DataType::Uint8 as i32,
            raw_data: (0..bytes).map(|at| at as u8).collect(),
            ..TensorProto::default()
        }
    }

    #[test]
    fn large_tensors_become_places_in_the_file() {
        let attribute = AttributeProto { t: Some(tensor(5000)), ..AttributeProto::default() };
        let node = NodeProto { attribute: vec![attribute], ..NodeProto::default() };
        let graph = GraphProto {
            node: vec![node],
            initializer: vec![tensor(9000), tensor(10)],
            ..GraphProto::default()
        };
        let model = ModelProto { ir_version: 9, graph: Some(graph), ..ModelProto::default() };
        let bytes = model.encode_to_vec();
        let small = detached(&bytes, "model.onnx").expect("a message");
        assert!(small.len() < 500, "{}", small.len());
        let decoded = ModelProto::decode(small.as_slice()).expect("a model");
        assert_eq!(decoded.ir_version, 9);
        let graph = decoded.graph.expect("a graph");
        let constant = graph.node[0].attribute[0].t.as_ref().expect("a tensor");
        for (got, size) in [(constant, 5000), (&graph.initializer[0], 9000)] {
            let entry = |key: &str| {
                let found = got.external_data.iter().find(|entry| entry.key == key);
                found.expect("an entry").value.clone()
            };
            assert_eq!(
                (got.name.as_str(), entry("location").as_str()),
                (format!("t{size}").as_str(), "model.onnx")
            );
            assert_eq!(got.data_location, Some(DataLocation::External as i32));
            let offset: usize = entry("offset").parse().expect("a number");
            let length: usize = entry("length").parse().expect("a number");
            assert_eq!(bytes[offset..offset + length], tensor(size).raw_data);
        }
        assert_eq!(graph.initializer[1], tensor(10));
    }

    #[test]
    fn what_is_cut_short_is_left_to_the_decoder() {
        let graph = GraphProto { initializer: vec![tensor(9000)], ..GraphProto::default() };
        let bytes = ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec();
        assert!(detached(&bytes[..bytes.len() - 1], "model.onnx").is_none());
        assert!(detached(b"not a model", "model.onnx").is_none());
    }
}
