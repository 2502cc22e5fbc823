//! References: engines that compute the right outputs of a model on disk.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use flotilla::folder::Folder;
use flotilla_browsers::home_dir;
use flotilla_model::import::{ImportError, OnnxForm, onnx_form};
use flotilla_reference::{
    Engine, FileError, LibraryError, OnnxFile, OnnxRuntime, Reference, ReferenceError, Wanted,
    onnxruntime,
};
use flotilla_tensor::{DType, NamedTensor, Tensor, encode};
use serde::Serialize;

/// Names a library of onnxruntime instead of the one that setup installed.
const VARIABLE: &str = "FLOTILLA_ONNXRUNTIME";
/// tract takes several times longer than onnxruntime, and much longer for convolutions of integers. It is the second reference
/// only if the first one took no longer than this.
const FIRST_MAX: Duration = Duration::from_secs(2);
const FIRST_QUANTIZED_MAX: Duration = Duration::from_millis(200);

/// The reference to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// onnxruntime.
    #[value(name = "onnxruntime")]
    OnnxRuntime,
    /// tract.
    Tract,
    /// Our own kernels on this machine's processor.
    Own,
}

/// Where right outputs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The file of `--io`.
    Io,
    /// onnxruntime, from the model's ONNX form.
    OnnxRuntime,
    /// tract, from the model's ONNX form.
    Tract,
    /// Our own kernels on this machine's processor: browsers are then only compared with each other, not with another engine.
    Own,
}

impl Source {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Source::Io => "recorded outputs",
            Source::OnnxRuntime => "onnxruntime",
            Source::Tract => "tract",
            Source::Own => "our own kernels",
        }
    }
}

/// Right outputs of a model for several sets of inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// One list of outputs for each set of inputs.
    pub outputs: Vec<Vec<NamedTensor>>,
    /// The reference.
    pub source: Source,
    /// Its version.
    pub version: String,
    /// Why a preferred reference was not used.
    pub reason: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl Answers {
    /// Such as `onnxruntime 1.32.0`.
    pub fn by(&self) -> String {
        format!("{} {}", self.source.name(), self.version)
    }
}

/// Why onnxruntime is not available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLibrary {
    /// Neither setup nor the variable names one.
    #[error(
        "onnxruntime is not installed: run `cargo xtask setup`, or name its library in {VARIABLE}"
    )]
    Missing,
    /// There is one, and it cannot be used.
    #[error(transparent)]
    Library(#[from] LibraryError),
}

/// Why a reference has no outputs.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum OpenError {
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    NoLibrary(#[from] NoLibrary),
    #[error(transparent)]
    Engine(#[from] ReferenceError),
    #[error("{}", .0.join("; "))]
    Nobody(Vec<String>),
    #[error("the reference's first output does not hold floats")]
    Output,
}

/// The library that the variable names, else the one of the data folder.
///
/// # Errors
/// There is none, or it cannot be loaded.
pub fn library() -> Result<OnnxRuntime, NoLibrary> {
    let named = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let path = named.or_else(|| onnxruntime::installed(&home_dir()));
    Ok(OnnxRuntime::load(&path.ok_or(NoLibrary::Missing)?)?)
}

/// The ONNX form of a model: its file as it is, or what our importer writes of a Hugging Face folder.
///
/// # Errors
/// The path or a file of the model cannot be read, or there is no model.
pub fn onnx(path: &Path) -> Result<OnnxFile, OpenError> {
    let read = |source| OpenError::Read { path: path.to_owned(), source };
    let folder = Folder::open(path).map_err(read)?;
    Ok(match onnx_form(&folder)? {
        OnnxForm::File(file) => OnnxFile::read(&folder, &file)?,
        OnnxForm::Bytes(bytes, file) => OnnxFile::beside(bytes, &folder, &file)?,
    })
}

/// Computes right outputs with the chosen reference, else with onnxruntime and, if that fails, with tract.
///
/// # Errors
/// No reference could compute them; the error is the reason.
pub fn ask(
    file: &OnnxFile,
    sets: &[Vec<NamedTensor>],
    outputs: &[String],
    choice: Option<Choice>,
) -> Result<Answers, OpenError> {
    let mut reasons = Vec::new();
    if choice != Some(Choice::Tract) {
        let asked = library()
            .map_err(OpenError::from)
            .and_then(|library| run(&Engine::OnnxRuntime(library), file, sets, outputs));
        match asked {
            Ok(answers) => return Ok(answers),
            Err(error) if choice.is_some() => return Err(error),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    match run(&Engine::Tract, file, sets, outputs) {
        Ok(answers) => {
            let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
            Ok(Answers { reason, ..answers })
        }
        Err(error) => {
            reasons.push(error.to_string());
            Err(OpenError::Nobody(reasons))
        }
    }
}

/// Computes the outputs with another reference than `first`, which needed the time `took`; `None` if no other one supports the
/// model.
pub fn second_opinion(
    file: &OnnxFile,
    inputs: &[NamedTensor],
    outputs: &[String],
    first: Source,
    took: Duration,
) -> Option<Answers> {
    let sets = [inputs.to_vec()];
    let onnxruntime = || run(&Engine::OnnxRuntime(library().ok()?), file, &sets, outputs).ok();
    let is_quantized = file.precision(None).arithmetic.is_quantized();
    let limit = if is_quantized { FIRST_QUANTIZED_MAX } else { FIRST_MAX };
    let tract = || run(&Engine::Tract, file, &sets, outputs).ok();
    match first {
        Source::Io => onnxruntime().or_else(tract),
        Source::OnnxRuntime if took <= limit => tract(),
        Source::Tract => onnxruntime(),
        Source::OnnxRuntime | Source::Own => None,
    }
}

fn run(
    engine: &Engine,
    file: &OnnxFile,
    sets: &[Vec<NamedTensor>],
    outputs: &[String],
) -> Result<Answers, OpenError> {
    let begin = Instant::now();
    let mut reference = engine.open(file)?;
    let runs = sets.iter().map(|inputs| reference.run(inputs, Wanted::Named(outputs)));
    Ok(Answers {
        outputs: runs.collect::<Result<_, _>>()?,
        source: match engine {
            Engine::OnnxRuntime(_) => Source::OnnxRuntime,
            Engine::Tract => Source::Tract,
        },
        version: engine.version().to_owned(),
        reason: None,
        took: begin.elapsed(),
    })
}

/// A model whose reference computes the vector of a text.
pub struct TextReference {
    reference: Reference,
    /// Names of its inputs, and whether they hold 32-bit integers.
    inputs: Vec<(String, bool)>,
}

impl TextReference {
    /// Prepares the reference of a model's folder or file: onnxruntime, or tract if that is not available or does not support
    /// the model. Takes seconds.
    ///
    /// # Errors
    /// There is no ONNX form of the model, or no reference supports it.
    pub fn open(path: &Path) -> Result<TextReference, OpenError> {
        let file = onnx(path)?;
        let inputs = file.inputs().map(|name| (name.to_owned(), file.is_narrow(name))).collect();
        let preferred = library().map_err(OpenError::from).and_then(|library| {
            let opened = Engine::OnnxRuntime(library).open(&file);
            opened.map_err(OpenError::from)
        });
        let reference = match preferred {
            Ok(reference) => reference,
            Err(first) => Engine::Tract
                .open(&file)
                .map_err(|second| OpenError::Nobody(vec![first.to_string(), second.to_string()]))?,
        };
        Ok(TextReference { reference, inputs })
    }

    /// The vector for one row of token ids: the first output, `[1, size]`, flattened.
    ///
    /// # Errors
    /// The model does not take token ids, or gives no numbers.
    pub fn embedding(&mut self, ids: &[u32]) -> Result<Vec<f32>, OpenError> {
        let outputs = self.reference.run(&tokens(&self.inputs, ids), Wanted::All)?;
        let first = outputs.first().ok_or(OpenError::Output)?;
        if !first.tensor.dtype.is_float() {
            return Err(OpenError::Output);
        }
        Ok(first.tensor.numbers().into_iter().map(|number| number as f32).collect())
    }
}

/// One row of tokens for every input, by its name.
fn tokens(names: &[(String, bool)], ids: &[u32]) -> Vec<NamedTensor> {
    let shape = vec![1, ids.len()];
    let one = |(name, is_narrow): &(String, bool)| {
        let values: Vec<i64> = match name.as_str() {
            "input_ids" => ids.iter().map(|&id| i64::from(id)).collect(),
            "attention_mask" => vec![1; ids.len()],
            "position_ids" => (0..ids.len() as i64).collect(),
            _ => vec![0; ids.len()],
        };
        let (dtype, bytes) = if *is_narrow {
            let narrow: Vec<i32> = values.iter().map(|&value| value as i32).collect();
            (DType::I32, encode(&narrow, i32::to_le_bytes))
        } else {
            (DType::I64, encode(&values, i64::to_le_bytes))
        };
        NamedTensor::new(name.clone(), Tensor { dtype, shape: shape.clone(), bytes })
    };
    names.iter().map(one).collect()
}
