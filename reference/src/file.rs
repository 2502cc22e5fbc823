//! An ONNX file with all data of its tensors.

use std::{collections::BTreeMap, sync::Arc};

use flotilla_model::import::{MemoryResolver, ResolveError, Resolver, Within};
use prost::Message as _;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto,
    tensor_proto::{DataLocation, DataType},
    type_proto,
};

use crate::{Arithmetic, Precision};

/// The bytes of a model and of the files that hold its external data, with the graph's inputs and outputs.
#[derive(Clone)]
pub struct OnnxFile {
    pub(crate) bytes: Arc<[u8]>,
    /// Contents by location, as the model names it.
    pub(crate) external: BTreeMap<String, Arc<[u8]>>,
    inputs: Vec<String>,
    /// Those of them that hold 32-bit integers.
    narrow: Vec<String>,
    outputs: Vec<String>,
}

impl std::fmt::Debug for OnnxFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.bytes.len();
        f.debug_struct("OnnxFile").field("bytes", &bytes).finish_non_exhaustive()
    }
}

/// Why a file cannot be given to an engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum FileError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("it is not an ONNX file, or it is cut short: {reason}")]
    Decode { reason: String },
    #[error("external data of tensor {tensor} is unusable: {reason}")]
    External { tensor: String, reason: String },
    #[error("tensor {tensor} of shape {shape:?} has {got} bytes of data, {want} are needed")]
    Length { tensor: String, shape: Vec<i64>, got: usize, want: u64 },
}

impl OnnxFile {
    /// Reads a file and those that it names, which are beside it.
    ///
    /// # Errors
    /// A file that is missing or damaged, or a tensor whose data do not fit its shape.
    pub fn read(resolver: &dyn Resolver, file: &str) -> Result<OnnxFile, FileError> {
        OnnxFile::of(resolver.read(file)?[..].into(), &Within::beside(resolver, file))
    }

    /// A model of these bytes, which names files beside the given one.
    ///
    /// # Errors
    /// As [`OnnxFile::read`].
    pub fn beside(
        bytes: Vec<u8>,
        resolver: &dyn Resolver,
        file: &str,
    ) -> Result<OnnxFile, FileError> {
        OnnxFile::of(bytes.into(), &Within::beside(resolver, file))
    }

    /// A model of these bytes, which names no other file.
    ///
    /// # Errors
    /// As [`OnnxFile::read`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<OnnxFile, FileError> {
        OnnxFile::of(bytes.into(), &MemoryResolver::default())
    }

    fn of(bytes: Arc<[u8]>, resolver: &dyn Resolver) -> Result<OnnxFile, FileError> {
        let proto = ModelProto::decode(bytes.as_ref())
            .map_err(|error| FileError::Decode { reason: error.to_string() })?;
        let no_graph = || FileError::Decode { reason: "there is no graph in it".to_owned() };
        let graph = proto.graph.as_ref().ok_or_else(no_graph)?;
        let mut external: BTreeMap<String, Arc<[u8]>> = BTreeMap::new();
        try_each_tensor(&proto, &mut |tensor| {
            if !is_external(tensor) {
                return check_length(tensor, tensor.raw_data.len());
            }
            let location = location(tensor)?;
            if !external.contains_key(location) {
                external.insert(location.to_owned(), resolver.read(location)?[..].into());
            }
            check_length(tensor, range(tensor, external[location].len())?.len())
        })?;
        let has_default = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
        let needed = || graph.input.iter().filter(|input| !has_default(&input.name));
        let inputs = needed().map(|input| input.name.clone()).collect();
        let is_narrow = |input: &&ValueInfoProto| {
            input.r#type.as_ref().and_then(element_type) == Some(DataType::Int32)
        };
        let narrow = needed().filter(is_narrow).map(|input| input.name.clone()).collect();
        let outputs = graph.output.iter().map(|output| output.name.clone()).collect();
        Ok(OnnxFile { bytes, external, inputs, narrow, outputs })
    }

    /// Names of the inputs that a run must be given, in the file's order.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(String::as_str)
    }

    /// Whether an input holds 32-bit integers.
    pub fn is_narrow(&self, input: &str) -> bool {
        self.narrow.iter().any(|name| name == input)
    }

    /// Names of the outputs, in the file's order.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(String::as_str)
    }

    /// The model's arithmetic, from its operators and element types, or `wished` if it is given.
    pub fn precision(&self, wished: Option<Arithmetic>) -> Precision {
        Precision::of(&self.proto(), wished)
    }

    /// The model, decoded anew: it is not kept, to save memory.
    pub(crate) fn proto(&self) -> ModelProto {
        // It was decoded once before.
        ModelProto::decode(self.bytes.as_ref()).unwrap_or_default()
    }

    /// The raw bytes of a tensor; `None` if its elements are in a typed field.
    pub(crate) fn raw<'a>(&'a self, tensor: &'a TensorProto) -> Option<&'a [u8]> {
        if is_external(tensor) {
            let file = self.external.get(location(tensor).ok()?)?;
            return file.get(range(tensor, file.len()).ok()?);
        }
        (!tensor.raw_data.is_empty()).then_some(tensor.raw_data.as_slice())
    }
}

pub(crate) fn element_type(of: &TypeProto) -> Option<DataType> {
    let type_proto::Value::TensorType(tensor) = of.value.as_ref()?;
    DataType::try_from(tensor.elem_type).ok()
}

pub(crate) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == Some(DataLocation::External as i32)
}

fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    let found = tensor.external_data.iter().find(|entry| entry.key == key);
    found.map(|entry| entry.value.as_str())
}

fn location(tensor: &TensorProto) -> Result<&str, FileError> {
    entry(tensor, "location").ok_or_else(|| unusable(tensor, "it has no location"))
}

fn unusable(tensor: &TensorProto, reason: impl Into<String>) -> FileError {
    FileError::External { tensor: tensor.name.clone(), reason: reason.into() }
}

/// Where a tensor's bytes lie in a file of this length.
fn range(tensor: &TensorProto, file_bytes: usize) -> Result<std::ops::Range<usize>, FileError> {
    let number = |key: &str| match entry(tensor, key) {
        None => Ok(None),
        Some(text) => match text.parse::<usize>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(unusable(tensor, format!("{key} is {text:?}"))),
        },
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let end = length.map_or(Some(file_bytes), |length| offset.checked_add(length));
    match end {
        Some(end) if offset <= end && end <= file_bytes => Ok(offset..end),
        Some(_) | None => Err(unusable(
            tensor,
            format!("bytes {offset}.. of {length:?} lie outside its file of {file_bytes} bytes"),
        )),
    }
}

/// Refuses raw data whose length does not fit the shape: engines would read past their end or allocate much memory.
fn check_length(tensor: &TensorProto, got: usize) -> Result<(), FileError> {
    let Some(bits) = DataType::try_from(tensor.data_type).ok().and_then(bits) else {
        return Ok(());
    };
    let length = |want| FileError::Length {
        tensor: tensor.name.clone(),
        shape: tensor.dims.clone(),
        got,
        want,
    };
    let elements = tensor
        .dims
        .iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(u64::try_from(dim).ok()?))
        .ok_or_else(|| length(u64::MAX))?;
    let typed = tensor.float_data.len().max(tensor.int32_data.len()).max(tensor.int64_data.len());
    let typed = typed.max(tensor.double_data.len()).max(tensor.uint64_data.len());
    // Elements of a typed field are counted, those of raw data are measured.
    if got == 0 && typed > 0 {
        return Ok(());
    }
    let want = elements.checked_mul(bits).map(|bits| bits.div_ceil(8));
    if want == Some(got as u64) { Ok(()) } else { Err(length(want.unwrap_or(u64::MAX))) }
}

fn bits(element: DataType) -> Option<u64> {
    Some(match element {
        DataType::Undefined | DataType::String => return None,
        DataType::Uint4 | DataType::Int4 | DataType::Float4e2m1 => 4,
        DataType::Bool
        | DataType::Uint8
        | DataType::Int8
        | DataType::Float8e4m3fn
        | DataType::Float8e4m3fnuz
        | DataType::Float8e5m2
        | DataType::Float8e5m2fnuz => 8,
        DataType::Uint16 | DataType::Int16 | DataType::Float16 | DataType::Bfloat16 => 16,
        DataType::Float | DataType::Uint32 | DataType::Int32 => 32,
        DataType::Double | DataType::Uint64 | DataType::Int64 | DataType::Complex64 => 64,
        DataType::Complex128 => 128,
    })
}

/// Calls `visit` for every tensor of a model: initializers and attributes of the graph, its subgraphs and the functions.
fn try_each_tensor<'p, E>(
    proto: &'p ModelProto,
    visit: &mut dyn FnMut(&'p TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    fn attribute<'p, E>(
        attribute: &'p AttributeProto,
        visit: &mut dyn FnMut(&'p TensorProto) -> Result<(), E>,
    ) -> Result<(), E> {
        attribute.t.iter().chain(&attribute.tensors).try_for_each(&mut *visit)?;
        attribute.g.iter().chain(&attribute.graphs).try_for_each(|inner| graph(inner, visit))
    }
    fn graph<'p, E>(
        graph: &'p GraphProto,
        visit: &mut dyn FnMut(&'p TensorProto) -> Result<(), E>,
    ) -> Result<(), E> {
        graph.initializer.iter().try_for_each(&mut *visit)?;
        let attributes = graph.node.iter().flat_map(|node| &node.attribute);
        attributes.into_iter().try_for_each(|inner| attribute(inner, visit))
    }
    let functions = proto.functions.iter().flat_map(|function| &function.node);
    let attributes = functions.flat_map(|node| &node.attribute);
    attributes.into_iter().try_for_each(|inner| attribute(inner, visit))?;
    proto.graph.iter().try_for_each(|inner| graph(inner, visit))
}
