//! The models that this daemon serves, with their programs and weight blobs. A catalog that is served does not change: the
//! pool replaces it by another one when a model is added or removed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_fleet::ModelId;
use flotilla_model::{
    import::{Family, FileRecord, ImportError, ImportedModel, LoadOptions},
    prompts::Prompts,
    text::{TextEncoder, TokenLimits},
    weights::Weights,
};
use flotilla_program::{BlobId, Port, Program, ProgramError};
use flotilla_tensor::Tensor;

use crate::{
    batch::FixedSizes,
    folder::Folder,
    mapped::MappedFiles,
    pull::{Manifest, ManifestError},
    weights::{Blob, WeightFiles},
};

/// Most tokens of an input if a model's files do not set a limit.
const TOKENS_MAX: usize = 512;

/// A model that is served.
#[derive(Debug)]
pub struct Model {
    /// Its number in the fleet; never used again for another model.
    pub id: ModelId,
    /// Name that clients use: the folder's.
    pub name: String,
    /// Where it came from.
    pub path: PathBuf,
    /// The program.
    pub program: Program,
    /// Of outputs that are strings in the model's file, by name: the strings that the numbers in a result are indices of.
    pub strings: BTreeMap<String, Vec<String>>,
    /// The program as pages receive it.
    pub program_bytes: Vec<u8>,
    /// blake3 over [`Model::program_bytes`], in hexadecimal.
    pub program_hash: String,
    /// Which output is the vector of a text; `None` for a model that makes none.
    pub embedding_output: Option<usize>,
    /// Tokenizer, where the model has one.
    pub text: Option<TextEncoder>,
    /// Texts that are put before those of clients.
    pub prompts: Prompts,
    /// Most tokens of an input.
    pub tokens_max: usize,
    /// Token ids are below this.
    pub vocabulary: Option<u32>,
    /// Expected values of the program's symbols, if the caller knows them better than their names suggest. Symbols that a run
    /// itself decides are ignored.
    pub sizes: Option<Vec<i64>>,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Its weights.
    pub blobs: BTreeMap<BlobId, Blob>,
}

impl Model {
    /// Numbers of a text's vector, where that is known before it is computed.
    pub fn dimensions(&self) -> Option<usize> {
        let port = self.program.outputs.get(self.embedding_output?)?;
        let last = self.program.value(port.value).shape.last()?;
        last.as_fixed().and_then(|size| usize::try_from(size).ok())
    }
}

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum ModelError {
    #[error(
        "{path} is not a model: neither config.json with model.safetensors (or model.safetensors.index.json) nor model.onnx or \
         onnx/model.onnx is there"
    )]
    NotAModel { path: PathBuf },
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {}", chain(.source))]
    Import { path: PathBuf, source: Box<ImportError> },
    #[error("{path}: {source}")]
    Program { path: PathBuf, source: ProgramError },
    #[error("{path}: {source}; pull the model again")]
    Manifest { path: PathBuf, source: ManifestError },
    #[error(
        "{path}: {file} is not what was pulled: its blake3 is {got}, the manifest says {want}; pull the model again"
    )]
    Changed { path: PathBuf, file: String, got: String, want: String },
    #[error("two models have the name {name}: {first} and {second}")]
    SameName { name: String, first: PathBuf, second: PathBuf },
}

/// A model that is ready to be served.
#[derive(Debug)]
pub struct NewModel(Model);

impl NewModel {
    /// Name that clients will use.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    fn new(
        name: String,
        path: PathBuf,
        imported: ImportedModel,
        weights: Option<(&WeightFiles, &MappedFiles)>,
    ) -> Result<NewModel, ModelError> {
        let ImportedModel {
            family,
            program,
            weights: Weights { blobs },
            text,
            prompts,
            limits,
            strings,
            ..
        } = imported;
        let program_bytes = program
            .to_bytes()
            .map_err(|source| ModelError::Program { path: path.clone(), source })?;
        let created = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let tokens_max = match (limits.length_max, FixedSizes::of(&program).length) {
            (Some(limit), Some(length)) => limit.min(length),
            (limit, length) => limit.or(length).unwrap_or(TOKENS_MAX),
        };
        let blobs = match weights {
            Some((files, maps)) => files.keep_all(blobs, maps),
            None => blobs.into_iter().map(|(id, blob)| (id, Blob::Memory(blob))).collect(),
        };
        let model = Model {
            id: ModelId(0),
            name,
            path,
            embedding_output: embedding_output(family, &program),
            program,
            program_hash: blake3::hash(&program_bytes).to_hex().to_string(),
            program_bytes,
            strings,
            text,
            prompts,
            tokens_max,
            vocabulary: limits.vocabulary.and_then(|size| u32::try_from(size).ok()),
            sizes: None,
            created,
            blobs,
        };
        Ok(NewModel(model))
    }
}

/// Every model that is served, and those that could not be loaded.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Served models, in the order in which they were added.
    pub models: Vec<Arc<Model>>,
    /// Models that could not be loaded, by name, with the reason.
    pub broken: BTreeMap<String, String>,
    /// How many models there were.
    added: u32,
}

impl Catalog {
    /// The model of a name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Model>> {
        self.models.iter().find(|model| model.name == name)
    }

    /// The model of a number; None once it was removed.
    pub fn by_id(&self, id: ModelId) -> Option<&Arc<Model>> {
        self.models.iter().find(|model| model.id == id)
    }

    /// A blob of weights, from each model that has it.
    pub fn blobs(&self, id: BlobId) -> impl Iterator<Item = &Blob> {
        self.models.iter().filter_map(move |model| model.blobs.get(&id))
    }

    /// Adds a model.
    ///
    /// # Errors
    /// Another one has its name.
    pub fn add(&mut self, new: NewModel) -> Result<Arc<Model>, ModelError> {
        let NewModel(mut model) = new;
        if let Some(first) = self.by_name(&model.name) {
            let (first, second) = (first.path.clone(), model.path);
            return Err(ModelError::SameName { name: model.name, first, second });
        }
        model.id = ModelId(self.added);
        self.added += 1;
        self.broken.remove(&model.name);
        let model = Arc::new(model);
        self.models.push(model.clone());
        Ok(model)
    }

    /// Removes the model of a name, or the record of why it could not be loaded. None if there is neither.
    pub fn remove(&mut self, name: &str) -> Option<Option<Arc<Model>>> {
        if let Some(at) = self.models.iter().position(|model| model.name == name) {
            return Some(Some(self.models.remove(at)));
        }
        self.broken.remove(name).map(|_| None)
    }

    /// Adds a program that was made in memory, under a name.
    ///
    /// # Errors
    /// The program cannot be serialized.
    pub fn add_program(
        &mut self,
        name: &str,
        program: Program,
        blobs: BTreeMap<BlobId, Bytes>,
    ) -> Result<ModelId, ModelError> {
        let imported = ImportedModel {
            name: name.to_owned(),
            family: Family::Tensors,
            program,
            weights: Weights { blobs },
            strings: BTreeMap::new(),
            text: None,
            prompts: Prompts::default(),
            limits: TokenLimits::default(),
            files: Vec::new(),
        };
        let new = NewModel::new(name.to_owned(), PathBuf::from(name), imported, None)?;
        Ok(self.add(new)?.id)
    }

    /// Sets the expected values of the symbols of a model's program.
    pub fn expect_sizes(&mut self, model: ModelId, sizes: Vec<i64>) {
        let model = self.models.iter_mut().find(|other| other.id == model);
        if let Some(model) = model.and_then(Arc::get_mut) {
            model.sizes = Some(sizes);
        }
    }

    /// Loads models from folders, each a model or a folder of models. A model that cannot be loaded goes to
    /// [`Catalog::broken`]; the others are not affected. Takes seconds: call it where blocking is allowed.
    pub fn open(paths: &[PathBuf]) -> Catalog {
        Catalog::open_for(paths, &Serving::default())
    }

    /// As [`Catalog::open`], with options.
    pub fn open_for(paths: &[PathBuf], serving: &Serving) -> Catalog {
        let mut catalog = Catalog::default();
        for path in paths {
            let found = models_in(path);
            match found {
                Ok(models) => {
                    for model in models {
                        catalog.open_model(&model, serving);
                    }
                }
                Err(error) => catalog.set_broken(path, &error),
            }
        }
        catalog
    }

    fn open_model(&mut self, path: &Path, serving: &Serving) {
        let name = name_of(path);
        let added = match self.by_name(&name) {
            Some(first) => {
                let (first, second) = (first.path.clone(), path.to_owned());
                Err(ModelError::SameName { name, first, second })
            }
            None => open_new(path, None, serving).and_then(|new| self.add(new)),
        };
        if let Err(error) = added {
            self.set_broken(path, &error);
        }
    }

    fn set_broken(&mut self, path: &Path, error: &ModelError) {
        tracing::error!(path = %path.display(), %error, "model is not served");
        self.broken.insert(name_of(path), error.to_string());
    }
}

/// Options for serving models.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    /// Fixed sizes of dimensions of every model's inputs, by name.
    pub dims: BTreeMap<String, i64>,
    /// Where weights are kept; in memory without.
    pub weights: Option<WeightFiles>,
}

/// Imports a model's folder or file to be served, under a name or its own. Takes seconds: call it where blocking is allowed.
///
/// # Errors
/// Not a model, or one that cannot be used; the error is the reason.
pub fn open_new(
    path: &Path,
    name: Option<String>,
    serving: &Serving,
) -> Result<NewModel, ModelError> {
    let purpose = Purpose { dims: serving.dims.clone(), ..Purpose::default() };
    let maps = serving.weights.as_ref().map(WeightFiles::maps).unwrap_or_default();
    let imported = import_with(path, purpose, maps.clone())?;
    let name = name.unwrap_or_else(|| name_of(path));
    let weights = serving.weights.as_ref().map(|files| (files, &maps));
    NewModel::new(name, path.to_owned(), imported, weights)
}

/// The output that holds a vector for each row: the only one of a text-embedding model, the one that exporters name
/// `sentence_embedding`, or a single output `[rows, size]`.
fn embedding_output(family: Family, program: &Program) -> Option<usize> {
    let is_vector =
        |port: &Port| port.dtype.is_float() && program.value(port.value).shape.len() == 2;
    match (family, program.outputs.as_slice()) {
        (Family::TextEmbedding { .. }, _) => Some(0),
        (Family::Tensors, [only]) => is_vector(only).then_some(0),
        (Family::Tensors, outputs) => {
            outputs.iter().position(|port| port.name == "sentence_embedding" && is_vector(port))
        }
    }
}

/// What a model is imported for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Purpose {
    /// Inputs of a run, by name. They fix what must be known when a model is loaded and the model's file leaves open, such as
    /// the value of an input; other sizes and values stay open.
    pub examples: BTreeMap<String, Tensor>,
    /// Fixed sizes of dimensions of the inputs, by name.
    pub dims: BTreeMap<String, i64>,
}

/// Imports a model's folder or file and checks it against its manifest.
///
/// # Errors
/// Not a model, or one that cannot be used; the error is the reason.
pub fn import(path: &Path) -> Result<ImportedModel, ModelError> {
    import_for(path, Purpose::default())
}

/// Imports a model for these examples and sizes.
///
/// # Errors
/// As [`import`].
pub fn import_for(path: &Path, purpose: Purpose) -> Result<ImportedModel, ModelError> {
    import_with(path, purpose, MappedFiles::default())
}

fn import_with(
    path: &Path,
    purpose: Purpose,
    maps: MappedFiles,
) -> Result<ImportedModel, ModelError> {
    let folder =
        Folder::open(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
    let folder = folder.mapped_by(maps);
    if !folder.is_model() {
        return Err(ModelError::NotAModel { path: path.to_owned() });
    }
    let Purpose { examples, dims } = purpose;
    let options = LoadOptions { examples, dims, ..LoadOptions::named(name_of(path)) };
    let imported = flotilla_model::import::load(&folder, &options)
        .map_err(|source| ModelError::Import { path: path.to_owned(), source: Box::new(source) })?;
    check_manifest(path, folder.root(), &imported.files)?;
    Ok(imported)
}

/// Compares the files that were read with the folder's manifest, if it has one.
fn check_manifest(path: &Path, folder: &Path, files: &[FileRecord]) -> Result<(), ModelError> {
    let manifest = Manifest::read(folder)
        .map_err(|source| ModelError::Manifest { path: path.to_owned(), source })?;
    let Some(manifest) = manifest else { return Ok(()) };
    for file in files {
        if let Some(digest) = manifest.files.get(&file.path)
            && digest.blake3 != file.blake3
        {
            return Err(ModelError::Changed {
                path: path.to_owned(),
                file: file.path.clone(),
                got: file.blake3.clone(),
                want: digest.blake3.clone(),
            });
        }
    }
    Ok(())
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A path itself when it is a model, else the models in its sub-folders, in the order of their names.
fn models_in(path: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let read_error = |source| ModelError::Read { path: path.to_owned(), source };
    if Folder::open(path).map_err(read_error)?.is_model() {
        return Ok(vec![path.to_owned()]);
    }
    let mut models: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(read_error)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && Folder::open(path).is_ok_and(|folder| folder.is_model()))
        .collect();
    models.sort();
    if models.is_empty() {
        Err(ModelError::NotAModel { path: path.to_owned() })
    } else {
        Ok(models)
    }
}

/// The name that clients use for a model: its folder's, or its file's without the extension.
pub fn name_of(path: &Path) -> String {
    // Not canonical: a link to a folder gives the model the link's name. Only paths such as `.` have no name of their own.
    let path = match path.file_name() {
        Some(_) => path.to_owned(),
        None => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
    };
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
