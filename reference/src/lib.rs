//! Computes ONNX files with engines that share no code with Flotilla's.
//!
//! An [`OnnxFile`] goes to an [`Engine`]: onnxruntime, from a shared library that is found while the program runs, or tract,
//! which is part of the program. Both read the file with their own importer. None of our import, lowering, fusion or kernels
//! is used, so that a fault there cannot hide.

mod arithmetic;
pub mod compare;
mod file;
pub mod onnxruntime;
mod tensor_proto;
mod tract;

use std::{cell::Cell, sync::Once};

use flotilla_tensor::{DType, NamedTensor, Tensor};

pub use arithmetic::{Arithmetic, Precision};
pub use file::{FileError, OnnxFile};
pub use onnxruntime::{LibraryError, OnnxRuntime};
pub use tensor_proto::{TensorProtoError, tensor_proto};

/// What computes.
#[derive(Clone, Debug)]
pub enum Engine {
    /// Microsoft's onnxruntime on this machine's processor.
    OnnxRuntime(OnnxRuntime),
    /// tract, without its optimizing passes.
    Tract,
}

impl Engine {
    /// Name in options, tables and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Engine::OnnxRuntime(_) => "onnxruntime",
            Engine::Tract => "tract",
        }
    }

    /// Its version.
    pub fn version(&self) -> &str {
        match self {
            Engine::OnnxRuntime(library) => library.version(),
            Engine::Tract => tract::VERSION,
        }
    }

    /// Prepares a file to be run.
    ///
    /// # Errors
    /// The engine does not take the file; the error has the engine's message.
    pub fn open(&self, file: &OnnxFile) -> Result<Reference, ReferenceError> {
        Ok(match self {
            Engine::OnnxRuntime(library) => Reference::OnnxRuntime(library.open(file)?),
            Engine::Tract => Reference::Tract(tract::Model::new(file.clone())?),
        })
    }
}

/// A model that an engine runs.
#[derive(Debug)]
pub enum Reference {
    /// Loaded by onnxruntime.
    OnnxRuntime(onnxruntime::Session),
    /// Prepared by tract anew for each set of input shapes.
    Tract(tract::Model),
}

impl Reference {
    /// Runs the model on inputs in any order; returns the requested outputs, or all, in the file's order.
    ///
    /// # Errors
    /// Inputs that do not fit, a run that failed, or a requested output that is not a tensor of numbers.
    pub fn run(
        &mut self,
        inputs: &[NamedTensor],
        wanted: Wanted<'_>,
    ) -> Result<Vec<NamedTensor>, ReferenceError> {
        inputs.iter().try_for_each(check_length)?;
        match self {
            Reference::OnnxRuntime(session) => session.run(inputs, wanted),
            Reference::Tract(model) => model.run(inputs, wanted),
        }
    }
}

/// Which outputs of a run are compared. The others may be of types that cannot be compared here.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// Every one.
    All,
    /// Those of these names.
    Named(&'a [String]),
}

impl Wanted<'_> {
    fn contains(self, name: &str) -> bool {
        match self {
            Wanted::All => true,
            Wanted::Named(names) => names.iter().any(|wanted| wanted == name),
        }
    }
}

/// Why an engine has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum ReferenceError {
    #[error("{engine} does not take the model: {reason}")]
    Load { engine: &'static str, reason: String },
    #[error("no input is called {name}; there are {inputs:?}")]
    Unknown { name: String, inputs: Vec<String> },
    #[error("input {name} is not given")]
    Missing { name: String },
    #[error("input {name} of shape {shape:?} and type {dtype:?} does not have {bytes} bytes")]
    Length { name: String, shape: Vec<usize>, dtype: DType, bytes: usize },
    #[error("input {name} is {got:?}, the model takes {want}")]
    Input { name: String, got: DType, want: String },
    #[error("{engine} cannot run the model: {reason}")]
    Run { engine: &'static str, reason: String },
    #[error("output {name} is {kind}, which cannot be compared")]
    Output { name: String, kind: String },
}

fn check_length(input: &NamedTensor) -> Result<(), ReferenceError> {
    let NamedTensor { name, tensor: Tensor { dtype, shape, bytes } } = input;
    if dtype.tensor_bytes(shape) == Some(bytes.len() as u64) {
        return Ok(());
    }
    Err(ReferenceError::Length {
        name: name.clone(),
        shape: shape.clone(),
        dtype: *dtype,
        bytes: bytes.len(),
    })
}

thread_local! {
    /// Whether a panic of this thread becomes an error with the panic's message.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// A panic of an engine becomes an error, because a hostile file must not end the process. The panic is not printed.
fn guarded<T, E>(
    work: impl FnOnce() -> Result<T, E>,
    panicked: impl FnOnce(String) -> E,
) -> Result<T, E> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                before(panic);
            }
        }));
    });
    let was_guarded = IS_GUARDED.replace(true);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    IS_GUARDED.set(was_guarded);
    outcome.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(panicked(format!("it panicked: {}", words.unwrap_or_default())))
    })
}
