//! External data: tensors whose bytes are in files next to the model.

use std::{borrow::Cow, collections::HashMap};

use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, TensorProto, tensor_proto::DataLocation,
};

use super::{OnnxError, constant::element_type};
use crate::{
    import::ImportError,
    resolver::{Resolver, confined},
};

/// Reads external data into the tensors themselves, so that nothing else opens files.
pub(super) struct ExternalData<'r> {
    pub(super) resolver: &'r dyn Resolver,
    pub(super) files: HashMap<String, Cow<'r, [u8]>>,
}

impl ExternalData<'_> {
    pub(super) fn inline_model(&mut self, model: &mut ModelProto) -> Result<(), ImportError> {
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

/// The length of a tensor's raw data must fit its shape; checked here, the message can name the
/// tensor.
fn check_length(tensor: &TensorProto) -> Result<(), OnnxError> {
    let shape = || TensorProto::clone(tensor).dims;
    let name = || tensor.name.clone();
    let Some(dtype) = element_type(tensor.data_type) else { return Ok(()) };
    let width = dtype.wire_bytes() as u64;
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

#[cfg(test)]
mod tests {
    use tract_onnx::pb::{StringStringEntryProto, tensor_proto::DataType};

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
