//! tract, which reads the file with its own importer.

use std::sync::Arc;

use flotilla_tensor::{DType, NamedTensor, decode};
use half::f16;
use tract_onnx::{
    pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType},
    prelude::{
        Datum, DatumType, InferenceFact, InferenceModelExt as _, IntoRunnable as _,
        IntoTValue as _, TValue, TVec, Tensor, TractResult, TypedRunnableModel,
    },
    tract_hir::internal::bail,
};

use crate::{OnnxFile, ReferenceError, Wanted, file::is_external, guarded};

const ENGINE: &str = "tract";
/// The version in the workspace's lock file; tract itself does not report it.
pub(crate) const VERSION: &str = "0.23.9";
/// Most elements of an integer input that becomes a constant, because tract must know inputs that decide shapes.
const DECIDING_ELEMENTS_MAX: usize = 1024;

/// A file that tract prepares anew for each run: every shape is concrete then, so that none of its rules for symbols is used.
pub struct Model {
    file: OnnxFile,
    /// The inputs that the latest run was prepared for: texts of the same length often follow one another.
    latest: Option<(Given, Arc<TypedRunnableModel>)>,
}

/// What a plan is made for.
#[derive(Clone, PartialEq)]
struct Given {
    /// Shapes of all inputs.
    shapes: Vec<Vec<usize>>,
    /// Inputs that are constants of the plan.
    fixed: Vec<NamedTensor>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Model {
    pub(crate) fn new(file: OnnxFile) -> Result<Model, ReferenceError> {
        let proto = file.proto();
        match proto.graph.as_ref().and_then(foreign) {
            Some(reason) => Err(ReferenceError::Load { engine: ENGINE, reason }),
            None => Ok(Model { file, latest: None }),
        }
    }

    pub(crate) fn run(
        &mut self,
        inputs: &[NamedTensor],
        wanted: Wanted<'_>,
    ) -> Result<Vec<NamedTensor>, ReferenceError> {
        let names: Vec<&str> = self.file.inputs().collect();
        if let Some(unknown) = inputs.iter().find(|input| !names.contains(&input.name.as_str())) {
            let inputs = names.iter().map(|&name| name.to_owned()).collect();
            return Err(ReferenceError::Unknown { name: unknown.name.clone(), inputs });
        }
        let given = |name: &&str| {
            let found = inputs.iter().find(|input| input.name == **name);
            found.ok_or_else(|| ReferenceError::Missing { name: (*name).to_owned() })
        };
        let inputs = names.iter().map(given).collect::<Result<Vec<_>, _>>()?;
        let failed = |reason| ReferenceError::Run { engine: ENGINE, reason };
        let mut values = Vec::new();
        let of = |input: &&NamedTensor| input.tensor.shape.clone();
        let mut given = Given { shapes: inputs.iter().map(of).collect(), fixed: Vec::new() };
        for &input in &inputs {
            if decides_shapes(&input.tensor) {
                given.fixed.push(input.clone());
            } else {
                let value = to_tract(input);
                values.push(value.map_err(|error| failed(one_line(&format!("{error:#}"))))?);
            }
        }
        let run = || self.outputs(given, values);
        let run = || run().map_err(|error| failed(one_line(&format!("{error:#}"))));
        let outputs = guarded(run, failed)?;
        let named = self.file.outputs().zip(&outputs);
        let named = named.filter(|(name, _)| wanted.contains(name));
        named.map(|(name, value)| from_tract(name, value)).collect()
    }

    fn outputs(&mut self, given: Given, values: Vec<Tensor>) -> TractResult<TVec<TValue>> {
        let plan = match &self.latest {
            Some((latest, plan)) if *latest == given => Arc::clone(plan),
            _ => {
                let plan = self.plan(&given, &values)?;
                self.latest = Some((given, Arc::clone(&plan)));
                plan
            }
        };
        plan.run(values.into_iter().map(Tensor::into_tvalue).collect())
    }

    fn plan(&self, given: &Given, values: &[Tensor]) -> TractResult<Arc<TypedRunnableModel>> {
        let mut proto = self.file.proto();
        if let Some(graph) = &mut proto.graph {
            inline_graph(graph, &self.file);
        }
        given.fixed.iter().for_each(|input| fix(&mut proto, input));
        let onnx = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_types(true);
        let parsed = onnx.parse(&proto, None)?;
        drop(proto);
        if let Some(name) = parsed.unresolved_inputs.first() {
            bail!("no node and no input gives {name}");
        }
        let mut model = parsed.model;
        for (at, value) in values.iter().enumerate() {
            let fact = InferenceFact::dt_shape(value.datum_type(), value.shape());
            model.set_input_fact(at, fact)?;
        }
        model.into_typed()?.into_runnable()
    }
}

/// Why tract must not read a graph: its importer looks operators up by their names alone, whatever their domain.
fn foreign(graph: &GraphProto) -> Option<String> {
    let of_node = |node: &NodeProto| match node.domain.as_str() {
        "" | "ai.onnx" => {
            let graphs = node.attribute.iter().flat_map(|it| it.g.iter().chain(&it.graphs));
            graphs.into_iter().find_map(foreign)
        }
        domain => Some(format!("node {} is {} of {domain}", node.name, node.op_type)),
    };
    graph.node.iter().find_map(of_node)
}

/// Whether the values of an input may be a shape, axes or a number of steps.
fn decides_shapes(input: &flotilla_tensor::Tensor) -> bool {
    let is_list = input.shape.len() <= 1 && input.elements() <= DECIDING_ELEMENTS_MAX;
    !input.dtype.is_float() && is_list
}

/// Makes an input a constant.
fn fix(proto: &mut ModelProto, input: &NamedTensor) {
    let Some(graph) = &mut proto.graph else { return };
    let NamedTensor { name, tensor } = input;
    graph.input.retain(|other| other.name != *name);
    graph.initializer.push(TensorProto {
        name: name.clone(),
        dims: tensor.shape.iter().map(|&dim| dim as i64).collect(),
        data_type: data_type(tensor.dtype) as i32,
        raw_data: tensor.bytes.clone(),
        ..TensorProto::default()
    });
}

fn inline_graph(graph: &mut GraphProto, file: &OnnxFile) {
    graph.initializer.iter_mut().for_each(|tensor| inline(tensor, file));
    for node in &mut graph.node {
        node.attribute.iter_mut().for_each(|attribute| inline_attribute(attribute, file));
    }
}

fn inline_attribute(attribute: &mut AttributeProto, file: &OnnxFile) {
    attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(|tensor| inline(tensor, file));
    let graphs = attribute.g.iter_mut().chain(&mut attribute.graphs);
    graphs.for_each(|graph| inline_graph(graph, file));
}

/// Puts external data into the tensor itself, so that tract opens no files.
fn inline(tensor: &mut TensorProto, file: &OnnxFile) {
    if is_external(tensor) {
        tensor.raw_data = file.raw(tensor).unwrap_or_default().to_vec();
        tensor.data_location = None;
        tensor.external_data.clear();
    }
}

fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::F32 => DataType::Float,
        DType::F64 => DataType::Double,
        DType::F16 => DataType::Float16,
        DType::BF16 => DataType::Bfloat16,
        DType::I64 => DataType::Int64,
        DType::I32 => DataType::Int32,
        DType::I16 => DataType::Int16,
        DType::I8 => DataType::Int8,
        DType::U64 => DataType::Uint64,
        DType::U32 => DataType::Uint32,
        DType::U16 => DataType::Uint16,
        DType::U8 => DataType::Uint8,
        DType::Bool => DataType::Bool,
    }
}

/// The same elements as tract's tensor.
fn to_tract(input: &NamedTensor) -> TractResult<Tensor> {
    fn made<const N: usize, T: Datum + Copy>(
        input: &NamedTensor,
        read: fn([u8; N]) -> T,
    ) -> TractResult<Tensor> {
        Tensor::from_shape(&input.tensor.shape, &decode(&input.tensor.bytes, read))
    }
    match input.tensor.dtype {
        DType::F32 => made(input, f32::from_le_bytes),
        DType::F64 => made(input, f64::from_le_bytes),
        DType::F16 => made(input, f16::from_le_bytes),
        DType::BF16 => bail!("input {} is BF16, which tract does not have", input.name),
        DType::I64 => made(input, i64::from_le_bytes),
        DType::I32 => made(input, i32::from_le_bytes),
        DType::I16 => made(input, i16::from_le_bytes),
        DType::I8 => made(input, i8::from_le_bytes),
        DType::U64 => made(input, u64::from_le_bytes),
        DType::U32 => made(input, u32::from_le_bytes),
        DType::U16 => made(input, u16::from_le_bytes),
        DType::U8 => made(input, u8::from_le_bytes),
        DType::Bool => made(input, |[byte]: [u8; 1]| byte != 0),
    }
}

/// The same elements as a result of tract. Numbers known from shapes are 64-bit integers.
fn from_tract(name: &str, value: &Tensor) -> Result<NamedTensor, ReferenceError> {
    let of = value.datum_type().unquantized();
    let (cast, dtype) = match of {
        DatumType::F32 => (of, DType::F32),
        DatumType::F64 => (of, DType::F64),
        DatumType::F16 => (of, DType::F16),
        DatumType::I64 => (of, DType::I64),
        DatumType::TDim => (DatumType::I64, DType::I64),
        DatumType::I32 => (of, DType::I32),
        DatumType::I16 => (of, DType::I16),
        DatumType::I8 => (of, DType::I8),
        DatumType::U64 => (of, DType::U64),
        DatumType::U32 => (of, DType::U32),
        DatumType::U16 => (of, DType::U16),
        DatumType::U8 => (of, DType::U8),
        DatumType::Bool => (of, DType::Bool),
        other => {
            let kind = format!("a tensor of {other:?}");
            return Err(ReferenceError::Output { name: name.to_owned(), kind });
        }
    };
    let bytes = || -> TractResult<Vec<u8>> {
        let value = value.cast_to_dt(cast)?;
        Ok(value.try_as_plain_ram()?.as_bytes().to_vec())
    };
    let bytes = bytes().map_err(|error| ReferenceError::Run {
        engine: ENGINE,
        reason: format!("output {name}: {error:#}"),
    })?;
    let shape = value.shape().to_vec();
    Ok(NamedTensor::new(name, flotilla_tensor::Tensor { dtype, shape, bytes }))
}

fn one_line(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}
