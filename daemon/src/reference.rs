//! The native reference of a model on disk.

use std::{collections::BTreeMap, path::Path};

use flotilla_model::{
    import::ImportError,
    reference::{Reference, ReferenceError, ReferenceTensor},
};

use crate::folder::Folder;

/// Why the reference has no answer.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum OpenError {
    #[error("{path} cannot be read: {source}")]
    Read { path: std::path::PathBuf, source: std::io::Error },
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Run(#[from] ReferenceError),
    #[error("the reference's first output is not of type F32")]
    Output,
}

/// Prepares the reference of a model's folder or file. Takes seconds.
///
/// # Errors
/// As an import.
pub fn open(path: &Path) -> Result<Reference, OpenError> {
    open_for(path, &BTreeMap::new())
}

/// Prepares the reference for these values of the inputs that decide shapes; values of other inputs are ignored.
///
/// # Errors
/// As an import.
pub fn open_for(
    path: &Path,
    values: &BTreeMap<String, ReferenceTensor>,
) -> Result<Reference, OpenError> {
    let folder =
        Folder::open(path).map_err(|source| OpenError::Read { path: path.to_owned(), source })?;
    Ok(Reference::load(&folder, values)?)
}

/// The reference's vector for one row of token ids: its first output, `[1, size]`, flattened.
///
/// # Errors
/// The model does not take token ids, or gives no numbers.
pub fn embedding(reference: &Reference, ids: &[u32]) -> Result<Vec<f32>, OpenError> {
    let shape = vec![1, ids.len()];
    let inputs: Vec<ReferenceTensor> = reference
        .inputs()
        .iter()
        .map(|name| {
            let values: Vec<i64> = match name.as_str() {
                "input_ids" => ids.iter().map(|&id| i64::from(id)).collect(),
                "attention_mask" => vec![1; ids.len()],
                _ => vec![0; ids.len()],
            };
            ReferenceTensor::from_i64(name.clone(), shape.clone(), &values)
        })
        .collect();
    reference.run(&inputs)?.first().and_then(ReferenceTensor::to_f32).ok_or(OpenError::Output)
}
