//! A model's files become a program: [`load`].

mod hf;
mod onnx;
mod resolver;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tract_onnx::prelude::{Tensor, TypedModel};

use crate::{
    lower::{LowerError, Phase, lower, typed_text},
    reference::ReferenceTensor,
    text::{TextEncoder, TextError, TokenLimits},
    weights::Weights,
};
use flotilla_program::Program;
pub use hf::HfError;
pub use onnx::OnnxError;
pub(crate) use onnx::{Convolve, Counted, ProgramOp, ToReal};
use resolver::Recorder;
pub use resolver::{FileRecord, MemoryResolver, ResolveError, Resolver};

/// What to import and how far.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Name of the model, for messages and clients.
    pub name: String,
    /// Where to stop: [`Phase::Lowered`] leaves the program unfused.
    pub phase: Phase,
    /// Values of inputs that decide shapes or axes, by name; the program is made for these values. Those of other inputs
    /// are ignored, so that all inputs of a run may be given.
    pub values: BTreeMap<String, ReferenceTensor>,
}

impl LoadOptions {
    /// Everything, under this name.
    pub fn named(name: impl Into<String>) -> LoadOptions {
        LoadOptions { name: name.into(), phase: Phase::Fused, values: BTreeMap::new() }
    }
}

/// What a model is for, as far as its files say.
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
    /// What it is for.
    pub family: Family,
    /// What to compute.
    pub program: Program,
    /// The program's constants.
    pub weights: Weights,
    /// What token numbers it takes, where it takes any.
    pub limits: TokenLimits,
    /// Turns text into token ids, when there is a tokenizer.
    pub text: Option<TextEncoder>,
    /// Every file that was read, as it was read.
    pub files: Vec<FileRecord>,
}

/// Why a model cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Neither kind of model is in the directory.
    #[error("no model here: there is neither model.onnx nor config.json with model.safetensors")]
    NoModel,
    /// A file could not be had.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The ONNX file is unusable.
    #[error("model.onnx cannot be imported")]
    Onnx(#[from] OnnxError),
    /// The Hugging Face directory is unusable.
    #[error("the Hugging Face directory cannot be imported")]
    Hf(#[from] HfError),
    /// An operator has no counterpart.
    #[error("the model cannot be lowered")]
    Lower(#[from] LowerError),
    /// The tokenizer is unusable.
    #[error("the tokenizer cannot be used")]
    Text(#[from] TextError),
    /// The reference cannot be prepared.
    #[error("the reference cannot be prepared: {reason}")]
    Reference {
        /// tract's words.
        reason: String,
    },
    /// The graph library gave up on the model.
    #[error("the graph library panicked on this model: {what}")]
    Panic {
        /// Its words.
        what: String,
    },
}

impl ImportError {
    /// tract could type the graph but not prepare it.
    pub(crate) fn reference(error: tract_onnx::prelude::TractError) -> ImportError {
        ImportError::Reference { reason: format!("{error:#}") }
    }
}

/// A typed graph and what its files say about it.
pub(crate) struct Imported {
    pub(crate) graph: TypedModel,
    pub(crate) family: Family,
    /// Names of the graph's outputs.
    pub(crate) outputs: Vec<String>,
    /// Inputs that are constants of the graph.
    pub(crate) fixed: Vec<FixedInput>,
    /// Inputs and outputs that are BF16 to clients and F32 to tract, which does not have that type.
    pub(crate) bf16: BTreeSet<String>,
}

/// An input that decides shapes: the graph was made for this value of it.
#[derive(Clone, Debug)]
pub(crate) struct FixedInput {
    /// Which of all inputs.
    pub(crate) position: usize,
    pub(crate) name: String,
    pub(crate) tensor: Arc<Tensor>,
}

/// Imports a model: a Hugging Face directory where there is a `modules.json`, else `model.onnx` where there is one, else
/// a Hugging Face directory without pooling.
///
/// # Errors
/// A missing, damaged or hostile file, or an operator that cannot be lowered.
pub fn load(resolver: &dyn Resolver, options: &LoadOptions) -> Result<ImportedModel, ImportError> {
    let recorder = Recorder::new(resolver);
    let imported = import(&recorder, Phase::Typed, &options.values)?;
    let (positions_max, vocabulary) = hf::token_config(&recorder)?;
    let limits = TokenLimits::load(&recorder, positions_max, vocabulary)?;
    let text = TextEncoder::load(&recorder, limits)?;
    let family = imported.family;
    let work = || lower(&options.name, imported, options.phase).map_err(ImportError::from);
    let (mut program, weights) = guarded(work, panicked)?;
    program.allowed_paddings = crate::padding::paddings(&program).allowed;
    let files = recorder.into_files();
    Ok(ImportedModel { name: options.name.clone(), family, program, weights, limits, text, files })
}

/// The model as text after a phase.
///
/// # Errors
/// As [`load`].
pub fn explain(resolver: &dyn Resolver, options: &LoadOptions) -> Result<String, ImportError> {
    match options.phase {
        Phase::Import | Phase::Typed => {
            Ok(typed_text(&import(&Recorder::new(resolver), options.phase, &options.values)?.graph))
        }
        Phase::Lowered | Phase::Fused => Ok(load(resolver, options)?.program.to_string()),
    }
}

/// Imports up to [`Phase::Import`] or [`Phase::Typed`].
pub(crate) fn import(
    resolver: &dyn Resolver,
    phase: Phase,
    values: &BTreeMap<String, ReferenceTensor>,
) -> Result<Imported, ImportError> {
    let work = || {
        // With modules.json there is a pooling that an exported encoder does not have.
        let mut imported = if resolver.exists(onnx::FILE) && !resolver.exists(hf::MODULES) {
            onnx::import(resolver, onnx::FILE, values)?
        } else if resolver.exists(hf::CONFIG) {
            hf::import(resolver)?
        } else {
            return Err(ImportError::NoModel);
        };
        if phase > Phase::Import {
            imported.graph = imported.graph.into_decluttered().map_err(OnnxError::graph)?;
        }
        Ok(imported)
    };
    guarded(work, panicked)
}

/// tract is careful, but a hostile file may still make it panic; that must not take the daemon with it.
pub(crate) fn guarded<T, E>(
    work: impl FnOnce() -> Result<T, E>,
    panicked: impl FnOnce(String) -> E,
) -> Result<T, E> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        Err(panicked(
            words
                .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
                .unwrap_or_default(),
        ))
    })
}

/// A panic as an import's error.
pub(crate) fn panicked(what: String) -> ImportError {
    ImportError::Panic { what }
}
