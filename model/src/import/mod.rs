//! Makes a program of a model's files: [`load`].

mod hf;
mod onnx;

use std::collections::BTreeMap;

use flotilla_tensor::Tensor;
use prost::Message as _;
use tract_onnx::pb::ModelProto;

use crate::resolver::Recorder;
pub use crate::resolver::{FileRecord, MemoryResolver, ResolveError, Resolver, Within};
use crate::{
    fuse,
    graph::{Draft, finish},
    prompts::Prompts,
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
    /// Texts that are put before those of clients.
    pub prompts: Prompts,
    /// Every file that was read, as it was read.
    pub files: Vec<FileRecord>,
}

/// Why a model cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Neither kind of model is in the directory.
    #[error(
        "not a model: it has neither model.onnx, onnx/model.onnx nor config.json with model.safetensors"
    )]
    NoModel,
    /// A file could not be read.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The ONNX file is unusable.
    #[error("the ONNX file cannot be imported")]
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

/// Imports a model: the ONNX file that the caller named; else a Hugging Face directory if there is a `modules.json` and weights
/// of an architecture that is known; else `model.onnx` or `onnx/model.onnx`, with the pooling of the modules if its outputs are
/// vectors of tokens; else a Hugging Face directory without pooling.
///
/// # Errors
/// A missing, damaged or hostile file, or an operator that is not supported.
pub fn load(resolver: &dyn Resolver, options: &LoadOptions) -> Result<ImportedModel, ImportError> {
    let recorder = Recorder::new(resolver);
    let described = Described::read(&recorder)?;
    let (mut draft, family) = guarded(|| described.import(&recorder, options))?;
    let strings = std::mem::take(&mut draft.strings);
    let (mut program, weights) = guarded(|| {
        if options.phase == Phase::Fused {
            fuse::fuse(&mut draft);
        }
        Ok(finish(draft)?)
    })?;
    program.allowed_paddings = crate::padding::paddings(&program).allowed;
    let Described { limits, text, prompts, .. } = described;
    let (name, files) = (options.name.clone(), recorder.into_files());
    Ok(ImportedModel { name, family, program, weights, limits, strings, text, prompts, files })
}

/// The model as text after a phase.
///
/// # Errors
/// As [`load`].
pub fn explain(resolver: &dyn Resolver, options: &LoadOptions) -> Result<String, ImportError> {
    Ok(load(resolver, options)?.program.to_string())
}

/// Whether a folder holds something that [`load`] imports or refuses with a reason.
pub fn is_model(resolver: &dyn Resolver) -> bool {
    onnx_file(resolver).is_some()
        || resolver.exists(hf::MODULES)
        || (resolver.exists(hf::CONFIG)
            && (hf::has_weights(resolver, "") || resolver.exists(hf::PICKLE)))
}

/// Where a model's ONNX form is.
pub enum OnnxForm {
    /// In a file of the folder.
    File(String),
    /// In these bytes, because the folder has another format, or because pooling was added. External data are beside the file of
    /// this name.
    Bytes(Vec<u8>, String),
}

/// The ONNX form of the model that [`load`] imports.
///
/// # Errors
/// There is no model, or it cannot be written as ONNX.
pub fn onnx_form(resolver: &dyn Resolver) -> Result<OnnxForm, ImportError> {
    let described = Described::read(resolver)?;
    guarded(|| match &described.source {
        Source::Onnx(file) => {
            let proto = onnx::decode(&resolver.read(file)?)?;
            let Described { modules, prompt, .. } = &described;
            Ok(match modules.extend(&proto, file, resolver, *prompt)? {
                Some((graph, weights)) => {
                    let bytes = hf::with_weights(graph, weights).encode_to_vec();
                    OnnxForm::Bytes(bytes, file.clone())
                }
                None => OnnxForm::File(file.clone()),
            })
        }
        Source::Hf => {
            let hf::Model { graph, weights, .. } = described.hf(resolver)?;
            let bytes = hf::with_weights(graph, weights).encode_to_vec();
            Ok(OnnxForm::Bytes(bytes, onnx::FILE.to_owned()))
        }
    })
}

/// Where a model's graph comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// A file.
    Onnx(String),
    /// An architecture, by its configuration.
    Hf,
}

/// The ONNX file of a folder.
fn onnx_file(resolver: &dyn Resolver) -> Option<String> {
    let usual = || onnx::FILES.iter().find(|file| resolver.exists(file));
    resolver.named_file().or_else(|| usual().map(|&file| file.to_owned()))
}

impl Source {
    fn find(resolver: &dyn Resolver, modules: &hf::Modules) -> Result<Source, ImportError> {
        let folder = &modules.encoder;
        let has_config = resolver.exists(&format!("{folder}{}", hf::CONFIG));
        let has_weights = has_config && hf::has_weights(resolver, folder);
        match onnx_file(resolver) {
            // A `modules.json` means pooling, which an exported encoder may not have.
            Some(file)
                if resolver.named_file().is_some()
                    || !resolver.exists(hf::MODULES)
                    || !has_weights
                    || !hf::is_known(resolver, folder)? =>
            {
                Ok(Source::Onnx(file))
            }
            Some(_) => Ok(Source::Hf),
            None if has_config => Ok(Source::Hf),
            None => Err(ImportError::NoModel),
        }
    }
}

/// What the files beside the weights say.
struct Described {
    source: Source,
    modules: hf::Modules,
    limits: TokenLimits,
    text: Option<TextEncoder>,
    prompts: Prompts,
    /// Tokens of the prompt before each text that pooling leaves out.
    prompt: usize,
}

impl Described {
    fn read(resolver: &dyn Resolver) -> Result<Described, ImportError> {
        let modules = hf::Modules::read(resolver)?;
        let source = Source::find(resolver, &modules)?;
        let encoder = Within::folder(resolver, &modules.encoder);
        let (positions_max, vocabulary) = hf::token_config(&encoder)?;
        let limits = TokenLimits::load(&encoder, positions_max, vocabulary)?;
        let text = TextEncoder::load(&encoder, limits)?;
        let mut prompts = Prompts::load(resolver)?;
        let mut prompt = 0;
        if modules.excludes_prompt() {
            prompt = prompts.fix(text.as_ref())?;
        }
        Ok(Described { source, modules, limits, text, prompts, prompt })
    }

    fn import(
        &self,
        resolver: &dyn Resolver,
        options: &LoadOptions,
    ) -> Result<(Draft, Family), ImportError> {
        match &self.source {
            Source::Onnx(file) => {
                let extend =
                    |proto: &ModelProto| self.modules.extend(proto, file, resolver, self.prompt);
                Ok((onnx::import(resolver, file, options, &extend)?, Family::Tensors))
            }
            Source::Hf => {
                let hf::Model { graph, weights, family } = self.hf(resolver)?;
                Ok((onnx::read_with(graph, weights, resolver.storage(), options)?, family))
            }
        }
    }

    fn hf(&self, resolver: &dyn Resolver) -> Result<hf::Model, ImportError> {
        hf::model(resolver, &self.modules, self.limits, self.prompt)
    }
}

/// The import is careful, but a hostile file may still make it or a library panic; that must not end the daemon.
fn guarded<T>(work: impl FnOnce() -> Result<T, ImportError>) -> Result<T, ImportError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(ImportError::Panic { what: words.unwrap_or_default() })
    })
}
