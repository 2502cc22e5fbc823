//! ONNX files, parsed and typed by tract.

use std::{borrow::Cow, collections::HashMap};

use tract_onnx::{
    pb::{
        AttributeProto, GraphProto, ModelProto, TensorProto,
        tensor_proto::{DataLocation, DataType},
    },
    prelude::{
        DatumType, Framework, InferenceModelExt, OutletId, SpecialOps, TDim, TVec, Tensor,
        TractResult, TypedModel,
    },
    tract_hir::{
        infer::{InferenceResult, ShapeFactoid, Solver, TensorProxy},
        internal::{
            AxisOp, Expansion, StaticName, expand,
            tract_core::ops::{
                binary::{BinMiniOp, TypedBinOp},
                math::Mul,
            },
        },
    },
};

use super::{Family, ImportError, Imported, Resolver, resolver::confined};

/// The file that makes a folder an ONNX model.
pub(super) const FILE: &str = "model.onnx";

/// Why an ONNX file cannot be imported.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum OnnxError {
    #[error("it is not an ONNX file, or it is cut short: {reason}")]
    Decode { reason: String },
    #[error("tensor {tensor} has {got} bytes of data, its shape {shape:?} needs {want}")]
    TensorData { tensor: String, shape: Vec<i64>, got: usize, want: u64 },
    #[error("tensor {tensor} has an impossible shape {shape:?}")]
    TensorShape { tensor: String, shape: Vec<i64> },
    #[error("external data of tensor {tensor} is unusable: {reason}")]
    External { tensor: String, reason: String },
    #[error("its graph cannot be typed: {reason}")]
    Graph { reason: String },
}

impl OnnxError {
    /// With tract's chain of causes in one line.
    pub(super) fn graph(error: tract_onnx::prelude::TractError) -> OnnxError {
        OnnxError::Graph { reason: format!("{error:#}") }
    }
}

/// Reads and types `model.onnx`, every symbolic dimension kept.
pub(super) fn import(resolver: &dyn Resolver) -> Result<Imported, ImportError> {
    let bytes = resolver.read(FILE)?;
    let mut onnx = tract_onnx::onnx();
    onnx.op_register.insert("Flatten", |_, node| {
        Ok((expand(Flatten { axis: node.get_attr_opt("axis")?.unwrap_or(1) }), vec![]))
    });
    let decode =
        |error: tract_onnx::prelude::TractError| OnnxError::Decode { reason: format!("{error:#}") };
    let mut proto = onnx.proto_model_for_read(&mut bytes.as_ref()).map_err(decode)?;
    drop(bytes);
    if proto.graph.is_none() {
        return Err(OnnxError::Decode { reason: "there is no graph in it".to_owned() }.into());
    }
    ExternalData { resolver, files: HashMap::new() }.inline_model(&mut proto)?;
    let model = onnx.model_for_proto_model(&proto).map_err(OnnxError::graph)?;
    drop(proto);
    let mut graph = model.into_typed().map_err(OnnxError::graph)?;
    protect_dimension_products(&mut graph);
    Ok(Imported { graph, family: Family::Tensors })
}

/// Reads external data into the tensors themselves, so that tract opens no files.
struct ExternalData<'r> {
    resolver: &'r dyn Resolver,
    files: HashMap<String, Cow<'r, [u8]>>,
}

impl ExternalData<'_> {
    fn inline_model(&mut self, model: &mut ModelProto) -> Result<(), ImportError> {
        for function in &mut model.functions {
            for node in &mut function.node {
                node.attribute
                    .iter_mut()
                    .try_for_each(|attribute| self.inline_attribute(attribute))?;
            }
        }
        model.graph.as_mut().map_or(Ok(()), |graph| self.inline_graph(graph))
    }

    fn inline_graph(&mut self, graph: &mut GraphProto) -> Result<(), ImportError> {
        graph.initializer.iter_mut().try_for_each(|tensor| self.inline_tensor(tensor))?;
        for node in &mut graph.node {
            node.attribute.iter_mut().try_for_each(|attribute| self.inline_attribute(attribute))?;
        }
        Ok(())
    }

    fn inline_attribute(&mut self, attribute: &mut AttributeProto) -> Result<(), ImportError> {
        attribute
            .t
            .iter_mut()
            .chain(&mut attribute.tensors)
            .try_for_each(|tensor| self.inline_tensor(tensor))?;
        attribute
            .g
            .iter_mut()
            .chain(&mut attribute.graphs)
            .try_for_each(|graph| self.inline_graph(graph))
    }

    fn inline_tensor(&mut self, tensor: &mut TensorProto) -> Result<(), ImportError> {
        if tensor.data_location == Some(DataLocation::External as i32) {
            tensor.raw_data = self.external(tensor)?;
            tensor.data_location = Some(DataLocation::Default as i32);
            tensor.external_data.clear();
        }
        Ok(check_length(tensor)?)
    }

    fn external(&mut self, tensor: &TensorProto) -> Result<Vec<u8>, ImportError> {
        let entry = |key: &str| {
            tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
        };
        let fail = |reason: String| OnnxError::External { tensor: tensor.name.clone(), reason };
        let number = |key: &str| {
            entry(key)
                .map(|text| text.parse::<usize>().map_err(|_| fail(format!("{key} is {text:?}"))))
                .transpose()
        };
        let location = entry("location").ok_or_else(|| fail("it has no location".to_owned()))?;
        let path = confined(location)?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        if !self.files.contains_key(&path) {
            self.files.insert(path.clone(), self.resolver.read(&path)?);
        }
        let file = &self.files[&path];
        let end = length.map_or(Some(file.len()), |length| offset.checked_add(length));
        match end.and_then(|end| file.get(offset..end)) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => Err(fail(format!(
                "bytes {offset}.. of {length:?} lie outside {path}, which has {}",
                file.len()
            ))
            .into()),
        }
    }
}

/// A tensor's raw data must be what its shape says; found here, the message can name the tensor.
fn check_length(tensor: &TensorProto) -> Result<(), OnnxError> {
    let shape = || TensorProto::clone(tensor).dims;
    let name = || tensor.name.clone();
    let width = match DataType::try_from(tensor.data_type).ok().map(DatumType::try_from) {
        Some(Ok(DatumType::String)) | Some(Err(_)) | None => return Ok(()),
        Some(Ok(datum)) => datum.size_of() as u64,
    };
    let want = tensor
        .dims
        .iter()
        .try_fold(width, |bytes, &dim| bytes.checked_mul(u64::try_from(dim).ok()?))
        .ok_or_else(|| OnnxError::TensorShape { tensor: name(), shape: shape() })?;
    let got = tensor.raw_data.len();
    if !tensor.raw_data.is_empty() && got as u64 != want {
        return Err(OnnxError::TensorData { tensor: name(), shape: shape(), got, want });
    }
    Ok(())
}

/// `Flatten` for any number of symbolic dimensions; tract's own allows one.
/// Source: ONNX operators, "Flatten".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flatten {
    axis: i64,
}

impl Flatten {
    fn flattened(&self, shape: &[TDim]) -> TractResult<[TDim; 2]> {
        let axis = if self.axis < 0 { self.axis + shape.len() as i64 } else { self.axis };
        let axis = usize::try_from(axis)?.min(shape.len());
        Ok([shape[..axis].iter().product(), shape[axis..].iter().product()])
    }
}

impl Expansion for Flatten {
    fn name(&self) -> StaticName {
        "Flatten".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        s.equals(&outputs[0].datum_type, &inputs[0].datum_type)?;
        s.given(&inputs[0].shape, move |s, shape| {
            s.equals(&outputs[0].shape, ShapeFactoid::from(self.flattened(&shape)?.to_vec()))
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let from = model.outlet_fact(inputs[0])?.shape.to_tvec();
        let to = self.flattened(&from)?.into_iter().collect();
        model.wire_node(prefix, AxisOp::Reshape(0, from, to), inputs)
    }
}

/// A product of dimension tensors. tract's simplifier wants to read the factors of its own product as numbers and fails
/// where they are symbols, so such products are given an operator that it leaves alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct DimMul;

impl BinMiniOp for DimMul {
    fn name(&self) -> &'static str {
        "DimMul"
    }

    fn result_datum_type(&self, a: DatumType, b: DatumType) -> TractResult<DatumType> {
        Mul.result_datum_type(a, b)
    }

    fn eval_in_a(&self, a: &mut Tensor, b: &Tensor) -> TractResult<()> {
        Mul.eval_in_a(a, b)
    }

    fn eval_out_of_place(&self, c: &mut Tensor, a: &Tensor, b: &Tensor) -> TractResult<()> {
        Mul.eval_out_of_place(c, a, b)
    }
}

fn protect_dimension_products(graph: &mut TypedModel) {
    for node in &mut graph.nodes {
        let of_dims = node.outputs.iter().any(|output| output.fact.datum_type == DatumType::TDim);
        if of_dims && node.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<Mul>()) {
            node.op = Box::new(TypedBinOp(Box::new(DimMul), None));
        }
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::StringStringEntryProto;

    use super::*;
    use crate::import::{MemoryResolver, ResolveError};

    /// Inlines one external tensor of `[2]` F32 whose data is described by these entries.
    fn inlined(entries: &[(&str, &str)]) -> Result<Vec<u8>, ImportError> {
        let resolver =
            MemoryResolver { files: [("data/weights.bin".to_owned(), (0..16).collect())].into() };
        let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let tensor = TensorProto {
            name: "w".to_owned(),
            dims: vec![2],
            data_type: DataType::Float as i32,
            data_location: Some(DataLocation::External as i32),
            external_data: entries.iter().map(entry).collect(),
            ..TensorProto::default()
        };
        let graph = GraphProto { initializer: vec![tensor], ..GraphProto::default() };
        let mut model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        ExternalData { resolver: &resolver, files: HashMap::new() }.inline_model(&mut model)?;
        Ok(model.graph.unwrap_or_default().initializer.remove(0).raw_data)
    }

    #[test]
    fn external_data_is_read_from_the_folder_alone() {
        let at = |location| [("location", location), ("offset", "4"), ("length", "8")];
        assert_eq!(
            inlined(&at("data/weights.bin")).expect("is there"),
            (4..12).collect::<Vec<u8>>()
        );
        for outside in ["../weights.bin", "/etc/passwd", "data/../../weights.bin"] {
            let error = inlined(&at(outside)).expect_err("it is outside");
            assert!(matches!(error, ImportError::Resolve(ResolveError::Outside { .. })), "{error}");
        }
        let error = inlined(&at("other.bin")).expect_err("it is missing");
        assert!(matches!(error, ImportError::Resolve(ResolveError::Missing { .. })), "{error}");
    }

    #[test]
    fn external_data_must_fit_its_file_and_its_tensor() {
        let with = |offset, length| {
            inlined(&[("location", "data/weights.bin"), ("offset", offset), ("length", length)])
        };
        for (offset, length) in
            [("12", "8"), ("17", "0"), ("18446744073709551615", "8"), ("-1", "8"), ("x", "8")]
        {
            let error = with(offset, length).expect_err("it does not fit");
            assert!(
                matches!(error, ImportError::Onnx(OnnxError::External { .. })),
                "{offset} {length}: {error}"
            );
        }
        let error = with("0", "12").expect_err("it is too long for the tensor");
        assert!(
            matches!(error, ImportError::Onnx(OnnxError::TensorData { got: 12, want: 8, .. })),
            "{error}"
        );
    }
}
