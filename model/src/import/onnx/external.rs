//! The contents of tensors that are not in the decoded graph: external data, which are in files next to the model, and large
//! tensors of the model's file itself ([`detached`](super::detach::detached)). All of them are slices of the files.

use std::collections::HashMap;

use bytes::Bytes;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, TensorProto, tensor_proto::DataLocation,
};

use super::{
    OnnxError,
    constant::{Constant, element_type},
};
use crate::{
    import::ImportError,
    resolver::{Resolver, confined},
    storage::Storage,
};

/// The files that tensors of a model lie in.
#[derive(Default)]
pub(super) struct TensorFiles {
    /// By the location that the model names.
    files: HashMap<String, Bytes>,
    storage: Storage,
}

impl TensorFiles {
    /// The files that a model names and the model's own, and a check that every tensor's data fit its shape.
    ///
    /// # Errors
    /// A file that is missing or outside of the folder, or data that do not fit.
    pub(super) fn of(
        model: &ModelProto,
        own: (&str, Bytes),
        resolver: &dyn Resolver,
    ) -> Result<TensorFiles, ImportError> {
        let files = HashMap::from([(own.0.to_owned(), own.1)]);
        let mut files = TensorFiles { files, storage: resolver.storage() };
        let functions = model.functions.iter().flat_map(|function| &function.node);
        functions
            .flat_map(|node| &node.attribute)
            .try_for_each(|attribute| files.add_attribute(attribute, resolver))?;
        model.graph.iter().try_for_each(|graph| files.add_graph(graph, resolver))?;
        Ok(files)
    }

    /// No files.
    pub(super) fn none(storage: Storage) -> TensorFiles {
        TensorFiles { files: HashMap::new(), storage }
    }

    /// Where large constants are kept.
    pub(super) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The contents of a tensor.
    ///
    /// # Errors
    /// A type that is not supported, or elements that do not fit the shape.
    pub(super) fn constant(&self, tensor: &TensorProto) -> Result<Constant, OnnxError> {
        let external = Place::of(tensor)?.map(|place| self.slice(tensor, &place)).transpose()?;
        let constant = Constant::of_proto(tensor, external);
        constant.map_err(|error| OnnxError::Tensor {
            tensor: tensor.name.clone(),
            reason: format!("{error:#}"),
        })
    }

    fn add_graph(
        &mut self,
        graph: &GraphProto,
        resolver: &dyn Resolver,
    ) -> Result<(), ImportError> {
        graph.initializer.iter().try_for_each(|tensor| self.add_tensor(tensor, resolver))?;
        let attributes = graph.node.iter().flat_map(|node| &node.attribute);
        attributes.into_iter().try_for_each(|attribute| self.add_attribute(attribute, resolver))
    }

    fn add_attribute(
        &mut self,
        attribute: &AttributeProto,
        resolver: &dyn Resolver,
    ) -> Result<(), ImportError> {
        let AttributeProto { t, tensors, g, graphs, .. } = attribute;
        t.iter().chain(tensors).try_for_each(|tensor| self.add_tensor(tensor, resolver))?;
        g.iter().chain(graphs).try_for_each(|graph| self.add_graph(graph, resolver))
    }

    fn add_tensor(
        &mut self,
        tensor: &TensorProto,
        resolver: &dyn Resolver,
    ) -> Result<(), ImportError> {
        let length = match Place::of(tensor)? {
            Some(place) => {
                if !self.files.contains_key(&place.location) {
                    let file = resolver.read(&confined(&place.location)?)?;
                    self.files.insert(place.location.clone(), file);
                }
                Some(self.slice(tensor, &place)?.len())
            }
            None => (!tensor.raw_data.is_empty()).then_some(tensor.raw_data.len()),
        };
        Ok(check_length(tensor, length)?)
    }

    fn slice(&self, tensor: &TensorProto, place: &Place) -> Result<Bytes, OnnxError> {
        let Place { location, offset, length } = place;
        let fail = |reason: String| OnnxError::External { tensor: tensor.name.clone(), reason };
        let file =
            self.files.get(location).ok_or_else(|| fail(format!("{location} was not read")))?;
        let end = length.map_or(Some(file.len()), |length| offset.checked_add(length));
        match end.filter(|end| offset <= end && *end <= file.len()) {
            Some(end) => Ok(file.slice(*offset..end)),
            None => Err(fail(format!(
                "bytes {offset}.. of {length:?} lie outside {location}, which has {}",
                file.len()
            ))),
        }
    }
}

/// The part of a file that a tensor's data are.
struct Place {
    /// As the model names it.
    location: String,
    offset: usize,
    /// Up to the end of the file if it is not given.
    length: Option<usize>,
}

impl Place {
    /// The place that a tensor names; `None` if its data are in itself.
    fn of(tensor: &TensorProto) -> Result<Option<Place>, OnnxError> {
        if tensor.data_location != Some(DataLocation::External as i32) {
            return Ok(None);
        }
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
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        Ok(Some(Place { location: location.clone(), offset, length }))
    }
}

/// The length of a tensor's raw data, if it has any, must fit its shape; checked here, the message can name the tensor.
fn check_length(tensor: &TensorProto, length: Option<usize>) -> Result<(), OnnxError> {
    let shape = || TensorProto::clone(tensor).dims;
    let name = || tensor.name.clone();
    let Some(dtype) = element_type(tensor.data_type) else { return Ok(()) };
    let width = dtype.wire_bytes() as u64;
    let want = tensor
        .dims
        .iter()
        .try_fold(width, |bytes, &dim| bytes.checked_mul(u64::try_from(dim).ok()?))
        .ok_or_else(|| OnnxError::TensorShape { tensor: name(), shape: shape() })?;
    match length {
        Some(got) if got as u64 != want => {
            Err(OnnxError::TensorData { tensor: name(), shape: shape(), got, want })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::{StringStringEntryProto, tensor_proto::DataType};

    use super::*;
    use crate::import::{MemoryResolver, ResolveError};

    /// The data of an external tensor of `[2]` F32 that these entries describe.
    fn contents(entries: &[(&str, &str)]) -> Result<Vec<u8>, ImportError> {
        let weights = Bytes::from_iter(0..16);
        let resolver = MemoryResolver { files: [("data/weights.bin".to_owned(), weights)].into() };
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
        let graph = GraphProto { initializer: vec![tensor.clone()], ..GraphProto::default() };
        let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        let files = TensorFiles::of(&model, ("model.onnx", Bytes::new()), &resolver)?;
        Ok(files.constant(&tensor)?.data.bytes.into())
    }

    #[test]
    fn external_data_is_read_from_the_folder_alone() {
        let at = |location| [("location", location), ("offset", "4"), ("length", "8")];
        assert_eq!(
            contents(&at("data/weights.bin")).expect("is there"),
            (4..12).collect::<Vec<u8>>()
        );
        for outside in ["../weights.bin", "/etc/passwd", "data/../../weights.bin"] {
            let error = contents(&at(outside)).expect_err("it is outside");
            assert!(matches!(error, ImportError::Resolve(ResolveError::Outside { .. })), "{error}");
        }
        let error = contents(&at("other.bin")).expect_err("it is missing");
        assert!(matches!(error, ImportError::Resolve(ResolveError::Missing { .. })), "{error}");
    }

    #[test]
    fn external_data_must_fit_its_file_and_its_tensor() {
        let with = |offset, length| {
            contents(&[("location", "data/weights.bin"), ("offset", offset), ("length", length)])
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
