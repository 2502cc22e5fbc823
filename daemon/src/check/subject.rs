//! A model that is to be checked: its program, what it is given, and what it must answer.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use flotilla_model::{
    golden::{Golden, GoldenError},
    import::ImportError,
    reference::ReferenceTensor,
};
use flotilla_program::{BlobId, DType, Program};
use flotilla_protocol::{Backend, Tensor, TensorError};
use serde::Serialize;

use super::{
    inputs::{self, InputError, VALUE_BYTES_MAX},
    native::Native,
};
use crate::{
    catalog::{self, ModelError},
    reference::{self, OpenError},
};

/// What a model is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// The file that holds inputs, and outputs if it says what is right. Without one inputs are made up.
    pub io: Option<PathBuf>,
    /// Sizes of symbolic dimensions, by name, for inputs that are made up.
    pub dims: BTreeMap<String, i64>,
    /// Their seed.
    pub seed: u64,
}

/// Where the right answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The file of `--io`.
    Io,
    /// tract on this machine's processor, which shares nothing with what pages run.
    Native,
    /// Our own kernels on this machine's processor, where tract has no implementation of an operator: browsers are compared
    /// with each other rather than with somebody else.
    Kernels,
}

/// A model, its inputs and its right outputs.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Name for tables.
    pub name: String,
    /// Where it was read from.
    pub path: PathBuf,
    /// blake3 over every file that was read.
    pub hash: String,
    /// What pages execute.
    pub program: Program,
    /// Its weights.
    pub blobs: BTreeMap<BlobId, Arc<[u8]>>,
    /// In the program's order.
    pub inputs: Vec<Tensor>,
    /// Right outputs.
    pub want: Vec<ReferenceTensor>,
    /// Where they come from.
    pub source: Source,
    /// Why there is no independent answer, if there is none.
    pub source_reason: Option<String>,
    /// Sizes that were chosen for symbolic dimensions; empty for recorded inputs.
    pub dims: BTreeMap<String, i64>,
    /// Token ids are below this, where the model's files say so.
    vocabulary: Option<u32>,
}

/// Why a model cannot be checked.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum SubjectError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Golden { path: PathBuf, source: GoldenError },
    #[error("{path} has no in.{input}")]
    Missing { path: PathBuf, input: String },
    #[error("{path} has in.{input}, the model's inputs are {known:?}")]
    Unknown { path: PathBuf, input: String, known: Vec<String> },
    #[error("{path}: in.{input} is {got:?}, the model takes {want:?}")]
    Type { path: PathBuf, input: String, got: DType, want: DType },
    #[error("{path} has out.{output}, the model's outputs are {known:?}")]
    Output { path: PathBuf, output: String, known: Vec<String> },
    #[error(
        "for these inputs a value of shape {shape:?} is over the limit of {VALUE_BYTES_MAX} bytes; choose smaller dimensions"
    )]
    TooLarge { shape: Vec<i64> },
    #[error("{0}; name a file of inputs with --io")]
    Inputs(#[from] InputError),
    #[error("input {input}: {source}")]
    Tensor { input: String, source: TensorError },
    #[error("there is nothing to compare with: {}; name a file of outputs with --io", chain(.0))]
    Reference(#[from] OpenError),
    #[error("there is nothing to compare with: {0}; name a file of outputs with --io")]
    Kernels(String),
    #[error("reading it panicked; its words are on standard error")]
    Panicked,
}

impl Subject {
    /// Reads a model's folder or file and finds out what it must answer. Takes seconds.
    ///
    /// # Errors
    /// The model or its recorded inputs cannot be used, or nothing says what is right.
    pub async fn open(path: &Path, given: &Given) -> Result<Subject, SubjectError> {
        let opening = {
            let (path, given) = (path.to_owned(), given.clone());
            tokio::task::spawn_blocking(move || read_model(&path, &given))
        };
        let (subject, inputs) = opening.await.map_err(|_| SubjectError::Panicked)??;
        if subject.want.is_empty() { subject.answered(inputs).await } else { Ok(subject) }
    }

    /// Other inputs for the same program, with what it must answer to them.
    ///
    /// # Errors
    /// As [`Subject::open`].
    pub async fn remade(
        &self,
        dims: &BTreeMap<String, i64>,
        seed: u64,
    ) -> Result<Subject, SubjectError> {
        let made = inputs::make(&self.program, self.vocabulary, dims, seed)?;
        let subject = Subject {
            inputs: made.inputs.iter().map(to_wire).collect::<Result<_, _>>()?,
            dims: made.dims,
            ..self.clone()
        };
        subject.answered(made.inputs).await
    }

    /// With what the native reference answers; where it has no implementation of an operator, with what our own kernels do.
    async fn answered(self, inputs: Vec<ReferenceTensor>) -> Result<Subject, SubjectError> {
        check_sizes(&self.program, &inputs)?;
        let path = self.path.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let values = by_name(&inputs);
            Ok(reference::open_for(&path, &values)?.run(&inputs)?)
        });
        match asked.await.map_err(|_| SubjectError::Panicked)? {
            Ok(want) => Ok(Subject { want, source: Source::Native, source_reason: None, ..self }),
            Err(OpenError::Import(error @ ImportError::Reference { .. })) => {
                let want = self.kernels_answer().await?;
                let source_reason = Some(chain(&error));
                Ok(Subject { want, source: Source::Kernels, source_reason, ..self })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn kernels_answer(&self) -> Result<Vec<ReferenceTensor>, SubjectError> {
        let open = Native::open(self.program.clone(), self.blobs.clone(), Backend::Cpu);
        let (native, _) = open.await.map_err(SubjectError::Kernels)?;
        let run = native.run(self.inputs.clone()).await.map_err(SubjectError::Kernels)?;
        Ok(self.named(run.outputs))
    }

    /// Types and shapes of the inputs, such as `input_ids:I64[1,8]`: what a time is measured for.
    pub fn shapes(&self) -> String {
        let ports = self.program.inputs.iter().zip(&self.inputs);
        let shapes = ports.map(|(port, tensor)| {
            let sizes: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
            format!("{}:{:?}[{}]", port.name, tensor.dtype, sizes.join(","))
        });
        shapes.collect::<Vec<_>>().join(" ")
    }

    /// Values of the program's symbols for these inputs; `None` where the inputs do not fit.
    pub fn sizes(&self) -> Option<Vec<i64>> {
        let shapes: Vec<&[usize]> =
            self.inputs.iter().map(|tensor| tensor.shape.as_slice()).collect();
        self.program.bind(&shapes).ok()
    }

    /// A page's outputs under the names that the model gives them.
    pub fn named(&self, outputs: Vec<Tensor>) -> Vec<ReferenceTensor> {
        let ports = self.program.outputs.iter().zip(outputs);
        let named = ports.map(|(port, Tensor { shape, bytes, .. })| ReferenceTensor {
            name: port.name.clone(),
            dtype: port.dtype,
            shape,
            bytes,
        });
        named.collect()
    }
}

/// Reads a model and what it is given; what is right is not known yet where no file says it.
fn read_model(path: &Path, given: &Given) -> Result<(Subject, Vec<ReferenceTensor>), SubjectError> {
    let recorded = match &given.io {
        Some(file) => Some((file, read(file)?)),
        None => None,
    };
    let values = recorded.as_ref().map(|(_, golden)| by_name(&golden.inputs)).unwrap_or_default();
    let imported = catalog::import_for(path, values)?;
    let program = imported.program;
    let vocabulary = imported.limits.vocabulary.and_then(|size| u32::try_from(size).ok());
    let (inputs, want, dims) = match recorded {
        Some((file, golden)) => {
            let inputs = ordered(&program, file, golden.inputs)?;
            check_outputs(&program, file, &golden.outputs)?;
            (inputs, golden.outputs, BTreeMap::new())
        }
        None => {
            let made = inputs::make(&program, vocabulary, &given.dims, given.seed)?;
            (made.inputs, Vec::new(), made.dims)
        }
    };
    let mut hasher = blake3::Hasher::new();
    for file in &imported.files {
        hasher.update(file.blake3.as_bytes());
    }
    let subject = Subject {
        name: catalog::name_of(path),
        path: path.to_owned(),
        hash: hasher.finalize().to_hex().to_string(),
        inputs: inputs.iter().map(to_wire).collect::<Result<_, _>>()?,
        program,
        blobs: imported.weights.blobs,
        want,
        source: Source::Io,
        source_reason: None,
        dims,
        vocabulary,
    };
    Ok((subject, inputs))
}

/// Refuses inputs for which a value of the program is too large. Inputs that do not fit are told of where they are run.
fn check_sizes(program: &Program, given: &[ReferenceTensor]) -> Result<(), SubjectError> {
    let shapes: Vec<&[usize]> = given.iter().map(|tensor| tensor.shape.as_slice()).collect();
    let Ok(symbols) = program.bind(&shapes) else { return Ok(()) };
    match inputs::too_large(program, &symbols) {
        Some(shape) => Err(SubjectError::TooLarge { shape }),
        None => Ok(()),
    }
}

fn by_name(tensors: &[ReferenceTensor]) -> BTreeMap<String, ReferenceTensor> {
    tensors.iter().map(|tensor| (tensor.name.clone(), tensor.clone())).collect()
}

fn read(file: &Path) -> Result<Golden, SubjectError> {
    let bytes = std::fs::read(file)
        .map_err(|source| SubjectError::Read { path: file.to_owned(), source })?;
    Golden::parse(&bytes).map_err(|source| SubjectError::Golden { path: file.to_owned(), source })
}

/// Recorded inputs in the program's order, each of the type that it takes.
fn ordered(
    program: &Program,
    file: &Path,
    given: Vec<ReferenceTensor>,
) -> Result<Vec<ReferenceTensor>, SubjectError> {
    let path = || file.to_owned();
    let is_input = |name: &str| program.inputs.iter().any(|port| port.name == name);
    if let Some(unknown) = given.iter().find(|tensor| !is_input(&tensor.name)) {
        let known = program.inputs.iter().map(|port| port.name.clone()).collect();
        return Err(SubjectError::Unknown { path: path(), input: unknown.name.clone(), known });
    }
    let one = |port: &flotilla_program::Port| {
        let input = || port.name.clone();
        let found = given.iter().find(|tensor| tensor.name == port.name);
        let tensor = found.ok_or_else(|| SubjectError::Missing { path: path(), input: input() })?;
        if tensor.dtype != port.dtype {
            let (got, want) = (tensor.dtype, port.dtype);
            return Err(SubjectError::Type { path: path(), input: input(), got, want });
        }
        Ok(tensor.clone())
    };
    program.inputs.iter().map(one).collect()
}

fn check_outputs(
    program: &Program,
    file: &Path,
    outputs: &[ReferenceTensor],
) -> Result<(), SubjectError> {
    let is_output = |name: &str| program.outputs.iter().any(|port| port.name == name);
    match outputs.iter().find(|tensor| !is_output(&tensor.name)) {
        None => Ok(()),
        Some(unknown) => Err(SubjectError::Output {
            path: file.to_owned(),
            output: unknown.name.clone(),
            known: program.outputs.iter().map(|port| port.name.clone()).collect(),
        }),
    }
}

pub(crate) fn to_wire(tensor: &ReferenceTensor) -> Result<Tensor, SubjectError> {
    Tensor::new(tensor.dtype, tensor.shape.clone(), tensor.bytes.clone())
        .map_err(|source| SubjectError::Tensor { input: tensor.name.clone(), source })
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
