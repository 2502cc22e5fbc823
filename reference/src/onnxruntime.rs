//! onnxruntime on this machine's processor, through its C library.

mod exact;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use flotilla_tensor::{DType, NamedTensor, decode, encode};
use half::{bf16, f16};
use ort::{
    environment::Environment,
    ep,
    session::builder::{GraphOptimizationLevel, SessionBuilder},
    value::{DynValue, PrimitiveTensorElementType, Tensor, TensorElementType, ValueType},
};

use crate::{OnnxFile, ReferenceError, Wanted, guarded};

const ENGINE: &str = "onnxruntime";
/// Threads of one operator.
const THREADS: usize = 2;
/// How the library's own file name begins; the version follows.
const FILE_PREFIX: &str = "libonnxruntime.so.";
/// Where `cargo xtask setup` puts it, in the data folder.
const FOLDER: &str = "lib/onnxruntime";

/// The loaded library. A process loads one, once.
#[derive(Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    path: Arc<Path>,
    version: Arc<str>,
}

impl fmt::Debug for OnnxRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnnxRuntime").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why the library is not available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum LibraryError {
    #[error("{path} cannot be loaded as onnxruntime: {reason}")]
    Load { path: PathBuf, reason: String },
    #[error("{path} cannot be loaded: this process has loaded {loaded} as onnxruntime")]
    Another { path: PathBuf, loaded: PathBuf },
}

/// The library that setup put into this data folder, if it is there.
pub fn installed(data_folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(data_folder.join(FOLDER)).ok()?;
    let is_library = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| name.starts_with(FILE_PREFIX))
    };
    entries.flatten().map(|entry| entry.path()).filter(is_library).max()
}

/// The library of this process: the binding has one for the whole process, which is never unloaded.
static LOADED: Mutex<Option<OnnxRuntime>> = Mutex::new(None);

impl OnnxRuntime {
    /// Loads the shared library of this path; loading the same one again is free.
    ///
    /// # Errors
    /// It does not exist, it is not onnxruntime or too old a version, or the process has loaded another one.
    pub fn load(path: &Path) -> Result<OnnxRuntime, LibraryError> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = loaded.as_ref() {
            if *library.path == *path {
                return Ok(library.clone());
            }
            let (path, loaded) = (path.to_owned(), library.path.to_path_buf());
            return Err(LibraryError::Another { path, loaded });
        }
        let failed = |reason| LibraryError::Load { path: path.to_owned(), reason };
        let load = || {
            let environment = ort::init_from(path).map_err(|error| error.to_string())?;
            // Errors are returned as values; warnings about a user's model are not printed to standard error.
            let environment =
                environment.with_telemetry(false).with_logger(Arc::new(|_, _, _, _, _| {}));
            environment.build().map_err(|error| error.to_string())
        };
        let environment = guarded(load, |words| words).map_err(failed)?;
        let library = OnnxRuntime { environment, path: path.into(), version: version(path).into() };
        *loaded = Some(library.clone());
        Ok(library)
    }

    /// Such as `1.32.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn open(&self, file: &OnnxFile) -> Result<Session, ReferenceError> {
        let load = || {
            let mut builder = self.builder(file)?;
            match exact::rewritten(file) {
                Some(bytes) => builder.commit_from_memory(&bytes),
                None => builder.commit_from_memory(&file.bytes),
            }
        };
        let loaded = guarded(|| load().map_err(|error| error.to_string()), |words| words);
        let session = loaded
            .map_err(|reason| ReferenceError::Load { engine: ENGINE, reason: plain(&reason) })?;
        Ok(Session { session })
    }

    fn builder(&self, file: &OnnxFile) -> ort::Result<SessionBuilder> {
        // Neither an arena nor a memory pattern: a reference runs once, and its memory must be freed.
        let cpu = ep::CPU::default().with_arena_allocator(false).build();
        let mut builder = ort::session::Session::builder(&self.environment)?
            // Every node is computed as the file has it.
            .with_optimization_level(GraphOptimizationLevel::Disable)?
            .with_execution_providers([cpu])?
            .with_memory_pattern(false)?
            .with_intra_threads(THREADS)?
            .with_intra_op_spinning(false)?;
        for (location, bytes) in &file.external {
            builder = builder.with_external_initializer_file_in_memory(location, bytes.clone())?;
        }
        Ok(builder)
    }
}

/// A model that onnxruntime has loaded.
pub struct Session {
    session: ort::session::Session,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn run(
        &mut self,
        inputs: &[NamedTensor],
        wanted: Wanted<'_>,
    ) -> Result<Vec<NamedTensor>, ReferenceError> {
        let known = self.session.inputs();
        let mut values = Vec::with_capacity(inputs.len());
        for input in inputs {
            if known.iter().all(|outlet| outlet.name() != input.name) {
                let inputs = known.iter().map(|outlet| outlet.name().to_owned()).collect();
                return Err(ReferenceError::Unknown { name: input.name.clone(), inputs });
            }
            values.push((input.name.clone(), value(input)?));
        }
        if let Some(missing) =
            known.iter().find(|outlet| inputs.iter().all(|input| input.name != outlet.name()))
        {
            return Err(ReferenceError::Missing { name: missing.name().to_owned() });
        }
        let failed =
            |reason: String| ReferenceError::Run { engine: ENGINE, reason: plain(&reason) };
        let session = &mut self.session;
        let run = || {
            let outputs = session.run(values).map_err(|error| failed(error.to_string()))?;
            let named = outputs.iter().filter(|(name, _)| wanted.contains(name));
            named.map(|(name, value)| tensor(name, &value)).collect()
        };
        guarded(run, failed)
    }
}

/// The same elements as onnxruntime's tensor.
fn value(input: &NamedTensor) -> Result<DynValue, ReferenceError> {
    fn made<const N: usize, T: PrimitiveTensorElementType + fmt::Debug + Clone + 'static>(
        input: &NamedTensor,
        read: fn([u8; N]) -> T,
    ) -> Result<DynValue, ReferenceError> {
        let flotilla_tensor::Tensor { shape, bytes, .. } = &input.tensor;
        let tensor = Tensor::from_array((shape.clone(), decode(bytes, read)));
        tensor.map(Tensor::into_dyn).map_err(|error| ReferenceError::Run {
            engine: ENGINE,
            reason: format!("input {}: {error}", input.name),
        })
    }
    match input.tensor.dtype {
        DType::F32 => made(input, f32::from_le_bytes),
        DType::F64 => made(input, f64::from_le_bytes),
        DType::F16 => made(input, f16::from_le_bytes),
        DType::BF16 => made(input, bf16::from_le_bytes),
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

/// The same elements as an output of onnxruntime.
fn tensor(name: &str, value: &DynValue) -> Result<NamedTensor, ReferenceError> {
    fn read<const N: usize, T: PrimitiveTensorElementType + Copy>(
        name: &str,
        value: &DynValue,
        dtype: DType,
        write: fn(T) -> [u8; N],
    ) -> Result<NamedTensor, ReferenceError> {
        let failed = |reason| ReferenceError::Run { engine: ENGINE, reason };
        let (shape, elements) = value
            .try_extract_tensor::<T>()
            .map_err(|error| failed(format!("output {name}: {error}")))?;
        let shape = shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
        let bytes = encode(elements, write);
        Ok(NamedTensor::new(name, flotilla_tensor::Tensor { dtype, shape, bytes }))
    }
    let other = |kind: String| Err(ReferenceError::Output { name: name.to_owned(), kind });
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return other(format!("of type {}", value.dtype()));
    };
    match ty {
        TensorElementType::Float32 => read(name, value, DType::F32, f32::to_le_bytes),
        TensorElementType::Float64 => read(name, value, DType::F64, f64::to_le_bytes),
        TensorElementType::Float16 => read(name, value, DType::F16, f16::to_le_bytes),
        TensorElementType::Bfloat16 => read(name, value, DType::BF16, bf16::to_le_bytes),
        TensorElementType::Int64 => read(name, value, DType::I64, i64::to_le_bytes),
        TensorElementType::Int32 => read(name, value, DType::I32, i32::to_le_bytes),
        TensorElementType::Int16 => read(name, value, DType::I16, i16::to_le_bytes),
        TensorElementType::Int8 => read(name, value, DType::I8, i8::to_le_bytes),
        TensorElementType::Uint64 => read(name, value, DType::U64, u64::to_le_bytes),
        TensorElementType::Uint32 => read(name, value, DType::U32, u32::to_le_bytes),
        TensorElementType::Uint16 => read(name, value, DType::U16, u16::to_le_bytes),
        TensorElementType::Uint8 => read(name, value, DType::U8, u8::to_le_bytes),
        TensorElementType::Bool => read(name, value, DType::Bool, |bit: bool| [u8::from(bit)]),
        _ => other(format!("a tensor of {ty}")),
    }
}

/// An error's message in one line.
fn plain(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The version from the name of the library's file, links followed, or from its symbols, which contain it as
/// `VERS_1.32.0`.
fn version(path: &Path) -> String {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = real.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(version) = name.strip_prefix(FILE_PREFIX).filter(|rest| rest.contains('.')) {
        return version.to_owned();
    }
    let bytes = std::fs::read(&real).unwrap_or_default();
    let mark = b"\0VERS_";
    let found = bytes.windows(mark.len()).position(|window| window == mark);
    let version = found.map(|at| {
        let rest = bytes[at + mark.len()..].iter();
        rest.take_while(|byte| byte.is_ascii_digit() || **byte == b'.')
            .map(|&byte| char::from(byte))
    });
    version.map_or_else(|| "of an unknown version".to_owned(), Iterator::collect)
}
