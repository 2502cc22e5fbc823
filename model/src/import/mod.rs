//! Makes a program of a model's files: [`load`].

mod hf;
mod onnx;

use std::collections::BTreeMap;

use flotilla_tensor::Tensor;
use prost::Message as _;

use crate::resolver::Recorder;
pub use crate::resolver::{FileRecord, MemoryResolver, ResolveError, Resolver};
use crate::{
    fuse,
    graph::{Draft, finish},
    text::{TextEncoder, TextError, TokenLimits},
    weights::Weights,
};
use flotilla_program::{Program, ProgramError};
pub use hf::HfError;
pub use onnx::OnnxError;

/// The phases at which an import can be stopped for inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// A program with one or a few operators for each of the model's.
    Imported,
    /// The program that runs.
    Fused,
}

impl Phase {
    /// Every phase, first to last.
    pub const ALL: [Phase; 2] = [Phase::Imported, Phase::Fused];

    /// Lower-case name as in `--phase`.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Imported => "imported",
            Phase::Fused => "fused",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What to import and how far.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Name of the model, for messages and clients.
    pub name: String,
    /// Where to stop: [`Phase::Imported`] leaves the program unfused.
    pub phase: Phase,
    /// Sizes of dimensions of the inputs, by the file's name or, if a dimension has no name, by the input's name and the
    /// number of the dimension (`x_0`).
    pub dims: BTreeMap<String, i64>,
    /// Inputs of a run, by name. They decide what the file leaves open: the rank of an input that it does not declare, the
    /// values that must be known when a model is loaded (the program is then made for these values), and which of two readings
    /// is meant. Sizes stay open.
    pub examples: BTreeMap<String, Tensor>,
}

impl LoadOptions {
    /// Everything, under this name.
    pub fn named(name: impl Into<String>) -> LoadOptions {
        LoadOptions {
            name: name.into(),
            phase: Phase::Fused,
            dims: BTreeMap::new(),
            examples: BTreeMap::new(),
        }
    }
}

/// The family of a model, as far as its files show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Text in, one vector per text out.
    TextEmbedding {
        /// Length of the vector.
        size: usize,
    },
    /// Tensors in, tensors out.
    Tensors,
}

/// A model that can be placed on browsers.
#[derive(Debug)]
pub struct ImportedModel {
    /// Its name.
    pub name: String,
    /// Its family.
    pub family: Family,
    /// What to compute.
    pub program: Program,
    /// The program's constants.
    pub weights: Weights,
    /// The limits of its token numbers, if it takes any.
    pub limits: TokenLimits,
    /// Of outputs that are strings in the model, by name: the strings that the numbers in a result are indices of.
    pub strings: BTreeMap<String, Vec<String>>,
    /// Turns text into token ids, if there is a tokenizer.
    pub text: Option<TextEncoder>,
    /// Every file that was read, as it was read.
    pub files: Vec<FileRecord>,
}

/// Why a model cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Neither kind of model is in the directory.
    #[error("not a model: it has neither model.onnx nor config.json with model.safetensors")]
    NoModel,
    /// A file could not be read.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The ONNX file is unusable.
    #[error("model.onnx cannot be imported")]
    Onnx(#[from] OnnxError),
    /// The Hugging Face directory is unusable.
    #[error("the Hugging Face directory cannot be imported")]
    Hf(#[from] HfError),
    /// The program made of the model is not valid.
    #[error("the imported program is invalid")]
    Program(#[from] ProgramError),
    /// The tokenizer is unusable.
    #[error("the tokenizer cannot be used")]
    Text(#[from] TextError),
    /// The import panicked on the model.
    #[error("the import panicked on this model: {what}")]
    Panic {
        /// The panic's message.
        what: String,
    },
}

/// Imports a model: a Hugging Face directory if there is a `modules.json`, else `model.onnx` if there is one, else a Hugging
/// Face directory without pooling.
///
/// # Errors
/// A missing, damaged or hostile file, or an operator that is not supported.
pub fn load(resolver: &dyn Resolver, options: &LoadOptions) -> Result<ImportedModel, ImportError> {
    let recorder = Recorder::new(resolver);
    let (mut draft, family) = guarded(|| import(&recorder, options))?;
    let (positions_max, vocabulary) = hf::token_config(&recorder)?;
    let limits = TokenLimits::load(&recorder, positions_max, vocabulary)?;
    let text = TextEncoder::load(&recorder, limits)?;
    let strings = std::mem::take(&mut draft.strings);
    let (mut program, weights) = guarded(|| {
        if options.phase == Phase::Fused {
            fuse::fuse(&mut draft);
        }
        Ok(finish(draft)?)
    })?;
    program.allowed_paddings = crate::padding::paddings(&program).allowed;
    let files = recorder.into_files();
    let name = options.name.clone();
    Ok(ImportedModel { name, family, program, weights, limits, strings, text, files })
}

/// The model as text after a phase.
///
/// # Errors
/// As [`load`].
pub fn explain(resolver: &dyn Resolver, options: &LoadOptions) -> Result<String, ImportError> {
    Ok(load(resolver, options)?.program.to_string())
}

/// Where a model's ONNX form is.
pub enum OnnxForm {
    /// In a file of the folder, of this name.
    File(&'static str),
    /// In these bytes, because the folder has another format.
    Bytes(Vec<u8>),
}

/// The ONNX form of the model that [`load`] imports.
///
/// # Errors
/// There is no model, or it cannot be written as ONNX.
pub fn onnx_form(resolver: &dyn Resolver) -> Result<OnnxForm, ImportError> {
    if is_onnx(resolver) {
        return Ok(OnnxForm::File(onnx::FILE));
    }
    guarded(|| Ok(OnnxForm::Bytes(hf::model(resolver)?.into_onnx().encode_to_vec())))
}

/// A `modules.json` means pooling, which an exported encoder does not have.
fn is_onnx(resolver: &dyn Resolver) -> bool {
    resolver.exists(onnx::FILE) && !resolver.exists(hf::MODULES)
}

fn import(resolver: &dyn Resolver, options: &LoadOptions) -> Result<(Draft, Family), ImportError> {
    if is_onnx(resolver) {
        return Ok((onnx::import(resolver, onnx::FILE, options)?, Family::Tensors));
    }
    if !resolver.exists(hf::CONFIG) {
        return Err(ImportError::NoModel);
    }
    let hf::Model { graph, weights, family } = hf::model(resolver)?;
    Ok((onnx::read_with(graph, weights, resolver.storage(), options)?, family))
}

/// The import is careful, but a hostile file may still make it or a library panic; that must not end the daemon.
fn guarded<T>(work: impl FnOnce() -> Result<T, ImportError>) -> Result<T, ImportError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(ImportError::Panic { what: words.unwrap_or_default() })
    })
}
