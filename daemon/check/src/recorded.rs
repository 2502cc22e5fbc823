//! Recorded inputs and outputs: safetensors, NumPy's archives and folders of arrays, and ONNX's folders of test data.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use flotilla_model::golden::{
    Golden, GoldenError, Names,
    npy::{self, NpyError},
};
use flotilla_reference::{TensorProtoError, tensor_proto};
use flotilla_tensor::NamedTensor;

/// Most arrays of an archive or a folder.
const ARRAYS_MAX: usize = 4096;
/// Most bytes of all arrays of one set, unpacked.
const BYTES_MAX: u64 = 4 << 30;
/// Most folders of test data.
const SETS_MAX: usize = 1024;
/// How ONNX's folders of test data begin.
const SET: &str = "test_data_set_";
/// The first bytes of a zip file (`.npz`), and of one without entries, which begins with its end record.
const ZIP: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

/// One run of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The folder's name, where there are several.
    pub label: Option<String>,
    /// Inputs and outputs by name.
    pub golden: Golden,
}

/// Why a file or folder is no recording.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum RecordedError {
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Golden { path: PathBuf, source: GoldenError },
    #[error("{path} is not an .npz file: {reason}")]
    Archive { path: PathBuf, reason: String },
    #[error("{path}: array {array}: {source}")]
    Array { path: PathBuf, array: String, source: NpyError },
    #[error("{path}: {source}")]
    Tensor { path: PathBuf, source: TensorProtoError },
    #[error("{path} has more than {ARRAYS_MAX} arrays")]
    Many { path: PathBuf },
    #[error("the arrays of {path} have more than {BYTES_MAX} bytes")]
    Large { path: PathBuf },
    #[error(
        "{path} has neither folders {SET}0, {SET}1, .. nor input_0.pb nor an .npy file: it is not a recording"
    )]
    Folder { path: PathBuf },
    #[error("{path} has {file}, and the model has {count} {kind}")]
    Place { path: PathBuf, file: String, count: usize, kind: &'static str },
}

/// Reads what `--io` names. `names` is called only where tensors may have the model's own names or its order.
///
/// # Errors
/// There is no recording of a known format, or it is damaged or too large.
pub fn read<E: From<RecordedError>>(
    path: &Path,
    names: impl FnOnce() -> Result<Names, E>,
) -> Result<Vec<Recorded>, E> {
    if path.is_dir() {
        return Ok(folder(path, &names()?)?);
    }
    let bytes = fs::read(path).map_err(read_error(path))?;
    let golden = if ZIP.iter().any(|begin| bytes.starts_with(begin)) {
        sorted(path, archive(path, bytes)?, &names()?)?
    } else {
        let golden = Golden::parse(&bytes, &Names::default());
        // The model's names are needed only if the file has no `in.` and `out.` prefixes.
        let golden = match golden {
            Err(GoldenError::Name { .. }) => Golden::parse(&bytes, &names()?),
            other => other,
        };
        golden.map_err(golden_error(path))?
    };
    Ok(vec![Recorded { label: None, golden }])
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> RecordedError {
    let path = path.to_owned();
    move |source| RecordedError::Read { path: path.clone(), source }
}

fn golden_error(path: &Path) -> impl Fn(GoldenError) -> RecordedError {
    let path = path.to_owned();
    move |source| RecordedError::Golden { path: path.clone(), source }
}

fn sorted(path: &Path, tensors: Vec<NamedTensor>, names: &Names) -> Result<Golden, RecordedError> {
    Golden::of(tensors, names).map_err(golden_error(path))
}

/// The arrays of an archive, each called as its file without the extension.
fn archive(path: &Path, bytes: Vec<u8>) -> Result<Vec<NamedTensor>, RecordedError> {
    let broken = |reason: String| RecordedError::Archive { path: path.to_owned(), reason };
    let mut archive =
        zip::ZipArchive::new(io::Cursor::new(bytes)).map_err(|error| broken(error.to_string()))?;
    if archive.len() > ARRAYS_MAX {
        return Err(RecordedError::Many { path: path.to_owned() });
    }
    let (mut arrays, mut left) = (Vec::new(), BYTES_MAX);
    for at in 0..archive.len() {
        let file = archive.by_index(at).map_err(|error| broken(error.to_string()))?;
        let Some(name) = file.name().strip_suffix(".npy").map(ToOwned::to_owned) else {
            return Err(broken(format!("{} is not an array", file.name())));
        };
        let mut array = Vec::new();
        // The lengths in the archive's headers are not trusted.
        let unpacked = file.take(left + 1).read_to_end(&mut array);
        let unpacked = unpacked.map_err(|error| broken(format!("{name}: {error}")))? as u64;
        left = left
            .checked_sub(unpacked)
            .ok_or_else(|| RecordedError::Large { path: path.to_owned() })?;
        arrays.push(parsed(path, &name, &array)?);
    }
    Ok(arrays)
}

fn parsed(path: &Path, name: &str, bytes: &[u8]) -> Result<NamedTensor, RecordedError> {
    npy::parse(name, bytes).map_err(|source| RecordedError::Array {
        path: path.to_owned(),
        array: name.to_owned(),
        source,
    })
}

fn folder(path: &Path, names: &Names) -> Result<Vec<Recorded>, RecordedError> {
    let files = listed(path)?;
    let number = |name: &str| name.strip_prefix(SET)?.parse::<u32>().ok();
    let mut sets: Vec<(u32, &String)> =
        files.iter().filter_map(|name| Some((number(name)?, name))).collect();
    sets.sort_unstable();
    if !sets.is_empty() {
        if sets.len() > SETS_MAX {
            return Err(RecordedError::Many { path: path.to_owned() });
        }
        let set = |(_, name): &(u32, &String)| {
            Ok(Recorded {
                label: Some((*name).clone()),
                golden: test_data(&path.join(name.as_str()), names)?,
            })
        };
        return sets.iter().map(set).collect();
    }
    if files.iter().any(|name| numbered(name, "input_").is_some()) {
        return Ok(vec![Recorded { label: None, golden: test_data(path, names)? }]);
    }
    let arrays: Vec<&String> = files.iter().filter(|name| name.ends_with(".npy")).collect();
    if arrays.is_empty() {
        return Err(RecordedError::Folder { path: path.to_owned() });
    }
    let mut left = BYTES_MAX;
    let array = |file: &&String| {
        let bytes = bounded(path, file, &mut left)?;
        parsed(path, file.strip_suffix(".npy").unwrap_or(file), &bytes)
    };
    let tensors = arrays.iter().map(array).collect::<Result<_, _>>()?;
    Ok(vec![Recorded { label: None, golden: sorted(path, tensors, names)? }])
}

/// Names of what is in a folder, in order.
fn listed(path: &Path) -> Result<Vec<String>, RecordedError> {
    let entries = fs::read_dir(path).map_err(read_error(path))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.take(ARRAYS_MAX + 1).collect();
    if names.len() > ARRAYS_MAX {
        return Err(RecordedError::Many { path: path.to_owned() });
    }
    names.sort();
    Ok(names)
}

fn bounded(folder: &Path, file: &str, left: &mut u64) -> Result<Vec<u8>, RecordedError> {
    let path = folder.join(file);
    let length = fs::metadata(&path).map_err(read_error(&path))?.len();
    *left =
        left.checked_sub(length).ok_or_else(|| RecordedError::Large { path: folder.to_owned() })?;
    fs::read(&path).map_err(read_error(&path))
}

/// The number in `input_3.pb`.
fn numbered(file: &str, begin: &str) -> Option<usize> {
    file.strip_prefix(begin)?.strip_suffix(".pb")?.parse().ok()
}

/// A folder `test_data_set_N`: `input_0.pb` and so on, in the order of the graph's inputs, unless a file names another one.
fn test_data(path: &Path, names: &Names) -> Result<Golden, RecordedError> {
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    let mut left = BYTES_MAX;
    for file in listed(path)? {
        let sides = [
            ("input_", &names.inputs, "inputs", &mut inputs),
            ("output_", &names.outputs, "outputs", &mut outputs),
        ];
        for (begin, known, kind, side) in sides {
            let Some(place) = numbered(&file, begin) else { continue };
            let bytes = bounded(path, &file, &mut left)?;
            let mut tensor = tensor_proto(&bytes)
                .map_err(|source| RecordedError::Tensor { path: path.join(&file), source })?;
            if !known.contains(&tensor.name) {
                let name = known.get(place).ok_or_else(|| RecordedError::Place {
                    path: path.to_owned(),
                    file: file.clone(),
                    count: known.len(),
                    kind,
                })?;
                tensor.name.clone_from(name);
            }
            side.push(tensor);
        }
    }
    Golden::new(inputs, outputs).map_err(golden_error(path))
}
