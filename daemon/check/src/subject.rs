//! A model to be checked: its program, inputs and right outputs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use flotilla::{
    catalog::{self, ModelError, Purpose},
    inputs::{self, InputError, VALUE_BYTES_MAX},
};
use flotilla_model::golden::Names;
use flotilla_program::{BlobId, Program};
use flotilla_protocol::Backend;
use flotilla_reference::{
    Arithmetic, OnnxFile, Precision,
    compare::{self, Tolerance},
};
use flotilla_tensor::{DType, NamedTensor, Tensor, TensorError};

use crate::{
    finding::Finding,
    native::Native,
    recorded::{self, RecordedError},
    reference::{self, Answers, Choice, OpenError, Source},
};

/// What to do if the model does not accept generated inputs.
const ADVICE: &str = "choose sizes of made-up inputs with --dim NAME=N, or name a file of inputs and outputs with --io";

/// Inputs of a model and how its outputs are judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// The file or folder with recorded inputs and, optionally, outputs. Without one inputs are generated.
    pub io: Option<PathBuf>,
    /// Fixed sizes of dimensions of the inputs, by name.
    pub dims: BTreeMap<String, i64>,
    /// Seed of generated inputs.
    pub seed: u64,
    /// The reference to use instead of the preferred one.
    pub reference: Option<Choice>,
    /// Whether a second reference is computed, too.
    pub second_opinion: bool,
    /// Allowed errors, instead of those of the model's arithmetic.
    pub allowance: Allowance,
}

/// Allowed errors that were set by options.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Allowance {
    /// The arithmetic that decides.
    pub arithmetic: Option<Arithmetic>,
    /// As [`Tolerance::absolute`].
    pub absolute: Option<f64>,
    /// As [`Tolerance::relative`].
    pub relative: Option<f64>,
}

impl Allowance {
    /// The tolerance for a model with this ONNX form, if there is one.
    fn tolerance(self, file: Option<&OnnxFile>) -> Tolerance {
        let Allowance { arithmetic, absolute, relative } = self;
        let precision = match file {
            Some(file) => file.precision(arithmetic),
            None => Precision::of_all(arithmetic.unwrap_or(Arithmetic::F32)),
        };
        Tolerance { precision, absolute, relative }
    }
}

/// One run: inputs and right outputs.
#[derive(Clone, Debug)]
pub struct Case {
    /// Which of several recorded runs it is.
    pub label: Option<String>,
    /// In the program's order.
    pub inputs: Vec<Tensor>,
    /// Right outputs.
    pub want: Vec<NamedTensor>,
    /// The inputs as they were given.
    given: Vec<NamedTensor>,
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
    pub blobs: BTreeMap<BlobId, Bytes>,
    /// Bytes of its files, without descriptions such as `config.json`.
    pub model_bytes: u64,
    /// At least one; the first is the one that is timed.
    pub cases: Vec<Case>,
    /// Where the right outputs of the first case come from.
    pub source: Source,
    /// The version of the reference; none for recorded outputs.
    pub source_version: Option<String>,
    /// Why a preferred reference was not used.
    pub source_reason: Option<String>,
    /// Where another reference does not agree with that one.
    pub findings: Vec<Finding>,
    /// What may differ.
    pub tolerance: Tolerance,
    /// Fixed sizes of dimensions of the inputs, and sizes that were chosen for generated inputs.
    pub dims: BTreeMap<String, i64>,
    /// Token ids are below this, if the model's files declare it.
    vocabulary: Option<u32>,
}

/// Why a model cannot be checked.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum SubjectError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Recorded(#[from] RecordedError),
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
    #[error("there is nothing to compare with: {}; {ADVICE}", chain(.0))]
    Reference(#[from] OpenError),
    #[error("there is nothing to compare with: {0}; {ADVICE}")]
    Own(String),
    #[error("reading it panicked; the panic's message is on standard error")]
    Panicked,
}

impl Subject {
    /// Reads a model's folder or file and determines the right outputs. Takes seconds.
    ///
    /// # Errors
    /// The model or its recorded inputs cannot be used, or there is no reference for it.
    pub async fn open(path: &Path, given: &Given) -> Result<Subject, SubjectError> {
        let opening = {
            let (path, given) = (path.to_owned(), given.clone());
            tokio::task::spawn_blocking(move || read_model(&path, &given))
        };
        let subject = opening.await.map_err(|_| SubjectError::Panicked)??;
        subject.answered(given).await
    }

    /// The same program with other inputs, of these sizes where its dimensions are open, and their right outputs.
    ///
    /// # Errors
    /// As [`Subject::open`].
    pub async fn remade(
        &self,
        sizes: &BTreeMap<String, i64>,
        given: &Given,
    ) -> Result<Subject, SubjectError> {
        let known = with(&given.dims, sizes.clone());
        let made = inputs::make(&self.program, self.vocabulary, &known, given.seed)?;
        let case = Case::new(None, made.inputs, Vec::new())?;
        let dims = with(&given.dims, made.dims);
        let subject = Subject { cases: vec![case], dims, ..self.clone() };
        subject.answered(given).await
    }

    /// Adds right outputs to every case that has none, or to all if a reference was chosen by option.
    async fn answered(mut self, given: &Given) -> Result<Subject, SubjectError> {
        for case in &self.cases {
            check_sizes(&self.program, &case.given)?;
        }
        let recorded = self.cases.first().map(|case| case.want.clone()).unwrap_or_default();
        let asked: Vec<usize> = (0..self.cases.len())
            .filter(|&at| given.reference.is_some() || self.cases[at].want.is_empty())
            .collect();
        let file = self.onnx().await;
        self.tolerance = given.allowance.tolerance(file.as_ref().ok());
        let mut took = Duration::ZERO;
        if !asked.is_empty() {
            let answers = self.ask(file.as_ref(), &asked, given.reference).await?;
            took = answers.took;
            for (&at, outputs) in asked.iter().zip(answers.outputs) {
                self.cases[at].want = outputs;
            }
            // The row names the source of the first case's outputs, even if other cases are computed by a reference.
            if asked.contains(&0) {
                self.source = answers.source;
                self.source_version = Some(answers.version);
                self.source_reason = answers.reason;
            }
        }
        if let (true, Ok(file)) = (given.second_opinion, file) {
            let recorded = (self.source != Source::Io).then_some(recorded);
            self.compare_references(file, recorded.filter(|outputs| !outputs.is_empty()), took)
                .await?;
        }
        Ok(self)
    }

    /// The ONNX form of the model.
    async fn onnx(&self) -> Result<OnnxFile, OpenError> {
        let path = self.path.clone();
        let reading = tokio::task::spawn_blocking(move || reference::onnx(&path));
        reading.await.unwrap_or_else(|_| Err(OpenError::Nobody(vec!["reading it panicked".into()])))
    }

    /// Computes the right outputs of some cases with a reference.
    async fn ask(
        &self,
        file: Result<&OnnxFile, &OpenError>,
        cases: &[usize],
        choice: Option<Choice>,
    ) -> Result<Answers, SubjectError> {
        let sets: Vec<Vec<NamedTensor>> =
            cases.iter().map(|&at| self.cases[at].given.clone()).collect();
        let mut reasons = Vec::new();
        if choice != Some(Choice::Own) {
            let asked = match file {
                Ok(file) => {
                    let (file, outputs) = (file.clone(), self.output_names());
                    let asking = move || reference::ask(&file, &sets, &outputs, choice);
                    let asked = tokio::task::spawn_blocking(asking).await;
                    asked.map_err(|_| SubjectError::Panicked)?
                }
                Err(error) => Err(OpenError::Nobody(vec![chain(error)])),
            };
            match asked {
                Ok(answers) => return Ok(answers),
                Err(error) if choice.is_some() => return Err(error.into()),
                Err(error) => reasons.push(chain(&error)),
            }
        }
        let begin = std::time::Instant::now();
        let inputs = cases.iter().map(|&at| self.cases[at].inputs.clone());
        let outputs = self.own_answers(inputs.collect()).await.map_err(|reason| {
            reasons.push(format!("our own kernels: {reason}"));
            SubjectError::Own(reasons.join("; "))
        })?;
        Ok(Answers {
            outputs,
            source: Source::Own,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
            took: begin.elapsed(),
        })
    }

    async fn own_answers(&self, sets: Vec<Vec<Tensor>>) -> Result<Vec<Vec<NamedTensor>>, String> {
        let open = Native::open(self.program.clone(), self.blobs.clone(), Backend::Cpu);
        let (native, _) = open.await?;
        let mut answers = Vec::with_capacity(sets.len());
        for inputs in sets {
            let run = native.run(inputs).await.map_err(|failed| failed.reason)?;
            answers.push(self.named(run.outputs));
        }
        Ok(answers)
    }

    /// Computes the first case with another reference and records where the two do not agree. `recorded` has outputs that were
    /// not computed by the first one: they are compared, too.
    async fn compare_references(
        &mut self,
        file: OnnxFile,
        recorded: Option<Vec<NamedTensor>>,
        took: Duration,
    ) -> Result<(), SubjectError> {
        let Some(first) = self.cases.first() else { return Ok(()) };
        let by = match &self.source_version {
            Some(version) => format!("{} {version}", self.source.name()),
            None => self.source.name().to_owned(),
        };
        let other = match recorded {
            Some(outputs) => Some((Source::Io.name().to_owned(), outputs)),
            None => {
                let (source, outputs) = (self.source, self.output_names());
                let given = first.given.clone();
                let asking = tokio::task::spawn_blocking(move || {
                    reference::second_opinion(&file, &given, &outputs, source, took)
                });
                let asked = asking.await.map_err(|_| SubjectError::Panicked)?;
                asked.map(|mut answers| (answers.by(), answers.outputs.swap_remove(0)))
            }
        };
        if let Some((other, outputs)) = other {
            let compared = compare::compare(&outputs, &first.want, &self.tolerance);
            self.findings.extend(Finding::of([by, other], compared));
        }
        Ok(())
    }

    fn output_names(&self) -> Vec<String> {
        self.program.outputs.iter().map(|port| port.name.clone()).collect()
    }

    /// The inputs that are timed.
    pub fn inputs(&self) -> &[Tensor] {
        self.cases.first().map(|case| case.inputs.as_slice()).unwrap_or_default()
    }

    /// Types and shapes of the inputs, such as `input_ids:I64[1,8]`: the key of a measured time.
    pub fn shapes(&self) -> String {
        let ports = self.program.inputs.iter().zip(self.inputs());
        let shapes = ports.map(|(port, tensor)| {
            let sizes: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
            format!("{}:{:?}[{}]", port.name, tensor.dtype, sizes.join(","))
        });
        shapes.collect::<Vec<_>>().join(" ")
    }

    /// Values of the program's symbols for the inputs that are timed, any for those that a run itself decides; `None` where the
    /// inputs do not fit.
    pub fn sizes(&self) -> Option<Vec<i64>> {
        let shapes: Vec<&[usize]> =
            self.inputs().iter().map(|tensor| tensor.shape.as_slice()).collect();
        self.program.bind(&shapes).ok().map(inputs::any)
    }

    /// A page's outputs under the names that the model gives them.
    pub fn named(&self, outputs: Vec<Tensor>) -> Vec<NamedTensor> {
        let ports = self.program.outputs.iter().zip(outputs);
        ports.map(|(port, tensor)| NamedTensor::new(port.name.clone(), tensor)).collect()
    }
}

impl Case {
    fn new(
        label: Option<String>,
        given: Vec<NamedTensor>,
        want: Vec<NamedTensor>,
    ) -> Result<Case, SubjectError> {
        let inputs = given.iter().map(to_wire).collect::<Result<_, _>>()?;
        Ok(Case { label, inputs, want, given })
    }
}

/// Sizes that are fixed and sizes that were chosen.
fn with(fixed: &BTreeMap<String, i64>, chosen: BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    fixed.clone().into_iter().chain(chosen).collect()
}

/// Reads a model and its inputs; right outputs are missing unless they are recorded.
fn read_model(path: &Path, given: &Given) -> Result<Subject, SubjectError> {
    let recorded = match &given.io {
        Some(file) => Some((file, recorded::read(file, || names(path))?)),
        None => None,
    };
    let first = recorded.as_ref().and_then(|(_, sets)| sets.first());
    let examples = first.map(|set| by_name(&set.golden.inputs)).unwrap_or_default();
    let imported = catalog::import_for(path, Purpose { examples, dims: given.dims.clone() })?;
    let program = imported.program;
    let vocabulary = imported.limits.vocabulary.and_then(|size| u32::try_from(size).ok());
    let (cases, dims) = match recorded {
        Some((file, sets)) => {
            let case = |set: recorded::Recorded| {
                let inputs = ordered(&program, file, set.golden.inputs)?;
                let outputs = known_outputs(&program, file, set.golden.outputs)?;
                Case::new(set.label, inputs, outputs)
            };
            (sets.into_iter().map(case).collect::<Result<Vec<_>, _>>()?, given.dims.clone())
        }
        None => {
            let made = inputs::make(&program, vocabulary, &given.dims, given.seed)?;
            (vec![Case::new(None, made.inputs, Vec::new())?], with(&given.dims, made.dims))
        }
    };
    let mut hasher = blake3::Hasher::new();
    for file in &imported.files {
        hasher.update(file.blake3.as_bytes());
    }
    let is_description = |path: &str| path.ends_with(".json") || path.ends_with(".txt");
    let files = imported.files.iter().filter(|file| !is_description(&file.path));
    Ok(Subject {
        model_bytes: files.map(|file| file.bytes).sum(),
        name: catalog::name_of(path),
        path: path.to_owned(),
        hash: hasher.finalize().to_hex().to_string(),
        program,
        blobs: imported.weights.blobs,
        cases,
        source: Source::Io,
        source_version: None,
        source_reason: None,
        findings: Vec::new(),
        tolerance: Tolerance::default(),
        dims,
        vocabulary,
    })
}

/// The model's names of its inputs and outputs.
fn names(path: &Path) -> Result<Names, SubjectError> {
    let file = reference::onnx(path)?;
    let owned = |name: &str| name.to_owned();
    Ok(Names {
        inputs: file.inputs().map(owned).collect(),
        outputs: file.outputs().map(owned).collect(),
    })
}

/// Refuses inputs for which a value of the program is too large. Inputs that do not fit are reported when they are run.
fn check_sizes(program: &Program, given: &[NamedTensor]) -> Result<(), SubjectError> {
    let shapes: Vec<&[usize]> = given.iter().map(|input| input.tensor.shape.as_slice()).collect();
    let Ok(symbols) = program.bind(&shapes) else { return Ok(()) };
    match inputs::too_large(program, &symbols) {
        Some(shape) => Err(SubjectError::TooLarge { shape }),
        None => Ok(()),
    }
}

fn by_name(tensors: &[NamedTensor]) -> BTreeMap<String, Tensor> {
    tensors.iter().map(|NamedTensor { name, tensor }| (name.clone(), tensor.clone())).collect()
}

/// Recorded inputs in the program's order, each of the type that it takes.
fn ordered(
    program: &Program,
    file: &Path,
    given: Vec<NamedTensor>,
) -> Result<Vec<NamedTensor>, SubjectError> {
    let path = || file.to_owned();
    let is_input = |name: &str| program.inputs.iter().any(|port| port.name == name);
    if let Some(unknown) = given.iter().find(|tensor| !is_input(&tensor.name)) {
        let known = program.inputs.iter().map(|port| port.name.clone()).collect();
        return Err(SubjectError::Unknown { path: path(), input: unknown.name.clone(), known });
    }
    let one = |port: &flotilla_program::Port| {
        let input = || port.name.clone();
        let found = given.iter().find(|given| given.name == port.name);
        let found = found.ok_or_else(|| SubjectError::Missing { path: path(), input: input() })?;
        let (got, want) = (found.tensor.dtype, port.dtype);
        let fitting = of_width(found.tensor.clone(), want);
        let is_fitting = fitting.dtype == want;
        let wrong = || SubjectError::Type { path: path(), input: input(), got, want };
        is_fitting.then(|| NamedTensor::new(input(), fitting)).ok_or_else(wrong)
    };
    program.inputs.iter().map(one).collect()
}

/// Recorded outputs, each of which the program gives.
fn known_outputs(
    program: &Program,
    file: &Path,
    outputs: Vec<NamedTensor>,
) -> Result<Vec<NamedTensor>, SubjectError> {
    let one = |NamedTensor { name, tensor }| match program
        .outputs
        .iter()
        .find(|port| port.name == name)
    {
        Some(port) => Ok(NamedTensor::new(name, of_width(tensor, port.dtype))),
        None => Err(SubjectError::Output {
            path: file.to_owned(),
            output: name,
            known: program.outputs.iter().map(|port| port.name.clone()).collect(),
        }),
    };
    outputs.into_iter().map(one).collect()
}

/// Converts between 32-bit and 64-bit floats to the type that the model has: NumPy's default is 64-bit. Other tensors are not
/// changed.
fn of_width(tensor: Tensor, dtype: DType) -> Tensor {
    match (tensor.dtype, dtype) {
        (DType::F64, DType::F32) | (DType::F32, DType::F64) => {
            Tensor { dtype, bytes: dtype.encode_numbers(&tensor.numbers()), ..tensor }
        }
        _ => tensor,
    }
}

/// The input as it is sent to a page, which takes no tensor that is not whole.
fn to_wire(NamedTensor { name, tensor }: &NamedTensor) -> Result<Tensor, SubjectError> {
    let whole = tensor.check();
    whole.map_err(|source| SubjectError::Tensor { input: name.clone(), source })?;
    Ok(tensor.clone())
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    // A transparent error has the same message as its cause.
    causes.map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}
