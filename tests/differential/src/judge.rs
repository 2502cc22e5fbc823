//! Runs a case on our engine and on onnxruntime.

use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use bytes::Bytes;
use flotilla_browser_runtime::{MemoryBlobs, Options, Runtime};
#[cfg(feature = "browsers")]
use flotilla_conformance::browser::Browser;
use flotilla_conformance::outcome::RuntimeName;
use flotilla_model::import::{self, LoadOptions, MemoryResolver};
use flotilla_program::{BlobId, Program};
use flotilla_protocol::{Backend, BlobSource, LoadTerms};
use flotilla_reference::{
    Arithmetic, Engine, OnnxFile, OnnxRuntime, Precision, Wanted,
    compare::{Tolerance, compare},
    onnxruntime,
};
use flotilla_tensor::{NamedTensor, Tensor};

use crate::{
    case::{Case, Claim},
    limits,
};

/// Allowed error of results that are not exact, however small the numbers are.
const ABSOLUTE: f64 = 1e-5;

/// Longest load and longest run in a browser.
#[cfg(feature = "browsers")]
const RUN_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// onnxruntime's results contradict the generator's claims.
    Generator,
    /// We refuse the graph, and the reason is not a known limit.
    Import,
    /// The backend does not have an operator.
    Refuse,
    /// The backend does not load it.
    Load,
    /// A run fails.
    Run,
    /// Results differ.
    Compare,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stage::Generator => "generator",
            Stage::Import => "import",
            Stage::Refuse => "refuse",
            Stage::Load => "load",
            Stage::Run => "run",
            Stage::Compare => "compare",
        })
    }
}

/// A failure and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How far the case came.
    pub stage: Stage,
    /// Why not further, in one line.
    pub reason: String,
}

impl Failure {
    fn new(stage: Stage, reason: impl fmt::Display) -> Failure {
        let reason = reason.to_string();
        Failure { stage, reason: reason.split_whitespace().collect::<Vec<_>>().join(" ") }
    }

    fn of(stage: Stage, error: &dyn std::error::Error) -> Failure {
        let mut words = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_words = cause.to_string();
            // A transparent error has its cause's message.
            if !words.ends_with(&cause_words) {
                words = format!("{words}: {cause_words}");
            }
            source = cause.source();
        }
        Failure::new(stage, words)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage, self.reason)
    }
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both have the same results.
    Agrees,
    /// onnxruntime does not take the graph; its message.
    NotTaken(String),
    /// A known limit of ours.
    Refused(&'static str),
    /// One of the engines is wrong.
    Failed(Failure),
}

/// The library of `FLOTILLA_ONNXRUNTIME`, or the one of the user's data folder.
///
/// # Errors
/// There is none, or it cannot be loaded; as text.
pub fn library() -> Result<OnnxRuntime, String> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home =
        variable("FLOTILLA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share/flotilla")));
    let path = variable("FLOTILLA_ONNXRUNTIME")
        .or_else(|| onnxruntime::installed(&home?))
        .ok_or("onnxruntime is not installed: run `cargo xtask setup`")?;
    OnnxRuntime::load(&path).map_err(|error| error.to_string())
}

/// Where our programs run.
enum Place {
    Native(Runtime, Backend),
    #[cfg(feature = "browsers")]
    Browser(Box<Browser>),
}

/// Both engines. Stays on the thread that made it.
pub struct Judge {
    engine: Engine,
    place: Place,
}

impl Judge {
    /// Starts what is needed.
    ///
    /// # Errors
    /// The runtime is not available; its message.
    pub fn new(library: OnnxRuntime, runtime: RuntimeName) -> anyhow::Result<Judge> {
        let native = |backend| {
            let mut runtime = Runtime::native(Options::default());
            let reports = pollster::block_on(runtime.inspect());
            let report = reports.into_iter().find(|report| report.backend == backend);
            if let Some(Err(reason)) = report.map(|report| report.outcome) {
                anyhow::bail!("{backend} is not available: {reason}");
            }
            Ok(Place::Native(runtime, backend))
        };
        let place = match runtime {
            RuntimeName::NativeCpu => native(Backend::Cpu)?,
            RuntimeName::NativeWebgpu => native(Backend::WebGpu)?,
            #[cfg(feature = "browsers")]
            in_browser => Place::Browser(Box::new(Browser::of(in_browser, RUN_MAX)?)),
            #[cfg(not(feature = "browsers"))]
            _ => anyhow::bail!("this program was built without browsers"),
        };
        Ok(Judge { engine: Engine::OnnxRuntime(library), place })
    }

    /// Ends the started processes.
    pub fn end(self) {
        match self.place {
            Place::Native(..) => {}
            #[cfg(feature = "browsers")]
            Place::Browser(browser) => browser.end(),
        }
    }

    /// Runs a case in both and compares.
    pub fn judge(&mut self, case: &Case) -> Outcome {
        let file = match OnnxFile::from_bytes(case.bytes()) {
            Ok(file) => file,
            Err(error) => return Outcome::Failed(Failure::of(Stage::Generator, &error)),
        };
        let wanted = match self.answers(case, &file) {
            Ok(wanted) => wanted,
            Err(reason) => return Outcome::NotTaken(reason),
        };
        for (run, results) in wanted.iter().enumerate() {
            for NamedTensor { name, tensor } in results {
                let claim = case.claims.get(name);
                if let Some(wrong) = claim.and_then(|claim| contradiction(claim, tensor, run)) {
                    let reason = format!("run {run}: {name}: {wrong}");
                    return Outcome::Failed(Failure::new(Stage::Generator, reason));
                }
            }
        }
        let ours = catch_unwind(AssertUnwindSafe(|| self.ours(case)));
        let ours = ours.unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            let words = format!("it panicked: {}", words.unwrap_or_default());
            // An interrupted runtime is not used again.
            match &mut self.place {
                Place::Native(runtime, _) => *runtime = Runtime::native(Options::default()),
                #[cfg(feature = "browsers")]
                Place::Browser(_) => {}
            }
            Err(Failure::new(Stage::Run, words))
        });
        let ours = match ours {
            Ok(ours) => ours,
            Err(failure) => {
                let limit = limits::of_failure(case, &failure);
                return limit.map_or(Outcome::Failed(failure), Outcome::Refused);
            }
        };
        let precision = file.precision(None);
        for (run, (got, want)) in ours.iter().zip(&wanted).enumerate() {
            if let Err(reason) = compared(case, &precision, got, want) {
                let reason = format!("run {run}: {reason}");
                return Outcome::Failed(Failure::new(Stage::Compare, reason));
            }
        }
        Outcome::Agrees
    }

    /// onnxruntime's results of each run.
    ///
    /// # Errors
    /// It does not take the graph; its message.
    pub fn answers(&self, case: &Case, file: &OnnxFile) -> Result<Vec<Vec<NamedTensor>>, String> {
        let mut reference = self.engine.open(file).map_err(|error| error.to_string())?;
        let each = case.runs.iter().map(|inputs| reference.run(inputs, Wanted::All));
        each.collect::<Result<_, _>>().map_err(|error| error.to_string())
    }

    fn ours(&mut self, case: &Case) -> Result<Vec<Vec<NamedTensor>>, Failure> {
        let files = BTreeMap::from([("model.onnx".to_owned(), case.bytes().into())]);
        let mut options = LoadOptions::named(format!("seed {}", case.seed));
        if !case.is_blind {
            for input in case.runs.first().into_iter().flatten() {
                options.examples.insert(input.name.clone(), input.tensor.clone());
            }
        }
        let model = import::load(&MemoryResolver { files }, &options)
            .map_err(|error| Failure::of(Stage::Import, &error))?;
        let program = model.program;
        let runs = case.runs.iter().enumerate().map(|(run, given)| {
            let inputs = program.inputs.iter().map(|port| {
                let none = || Failure::new(Stage::Run, format!("it wants {}", port.name));
                let input = given.iter().find(|input| input.name == port.name).ok_or_else(none)?;
                let whole = input.tensor.check();
                whole.map_err(|error| Failure::new(Stage::Run, format!("run {run}: {error}")))?;
                Ok(input.tensor.clone())
            });
            inputs.collect()
        });
        let runs = runs.collect::<Result<Vec<Vec<Tensor>>, Failure>>()?;
        let results = self.place.compute(&program, &model.weights.blobs, &runs)?;
        let named = |outputs: Vec<Tensor>| {
            let ports = program.outputs.iter().zip(outputs);
            ports.map(|(port, tensor)| NamedTensor::new(port.name.clone(), tensor)).collect()
        };
        Ok(results.into_iter().map(named).collect())
    }
}

impl Place {
    /// Loads a program once and runs it with each of some inputs.
    fn compute(
        &mut self,
        program: &Program,
        blobs: &BTreeMap<BlobId, Bytes>,
        runs: &[Vec<Tensor>],
    ) -> Result<Vec<Vec<Tensor>>, Failure> {
        match self {
            Place::Native(runtime, backend) => {
                let blobs = blobs.iter().map(|(&id, bytes)| (id, bytes.to_vec())).collect();
                let mut blobs = MemoryBlobs { blobs, chunk_bytes: 0 };
                let source = BlobSource { url_prefix: String::new() };
                let terms = LoadTerms::default();
                let mut ignored = |_, _| {};
                let program = program.clone();
                let load =
                    runtime.load(*backend, program, &terms, &mut blobs, &source, &mut ignored);
                let mut placement =
                    pollster::block_on(load).map_err(|error| Failure::of(Stage::Load, &error))?;
                let each = runs.iter().enumerate().map(|(run, inputs)| {
                    let ran = pollster::block_on(placement.run(inputs));
                    ran.map(|(outputs, _)| outputs).map_err(|error| {
                        let failure = Failure::of(Stage::Run, &error);
                        Failure::new(Stage::Run, format!("run {run}: {}", failure.reason))
                    })
                });
                each.collect()
            }
            #[cfg(feature = "browsers")]
            Place::Browser(browser) => {
                use flotilla_conformance::outcome::Stage as Reached;
                // Operators that WebNN does not have run on another backend, as a user may allow.
                let terms = LoadTerms { rest: Some(Backend::Cpu), ..LoadTerms::default() };
                browser.run(program, blobs, &terms, runs).map_err(|failure| {
                    let stage = match failure.stage {
                        Reached::Refuse => Stage::Refuse,
                        Reached::Read | Reached::Import | Reached::Load => Stage::Load,
                        Reached::Run | Reached::Compare => Stage::Run,
                    };
                    Failure::new(stage, failure.reason)
                })
            }
        }
    }
}

/// Where a result contradicts the generator's claims.
fn contradiction(claim: &Claim, tensor: &Tensor, run: usize) -> Option<String> {
    if tensor.dtype != claim.of.dtype() {
        return Some(format!("{:?} comes, {:?} is claimed", tensor.dtype, claim.of));
    }
    let fits =
        tensor.shape.len() == claim.shape.len()
            && tensor.shape.iter().zip(&claim.shape).all(|(&size, dim)| {
                dim.sizes().map_or(size <= dim.most(), |sizes| sizes[run] == size)
            });
    if !fits {
        return Some(format!("a shape of {:?} comes, {:?} is claimed", tensor.shape, claim.shape));
    }
    let facts = &claim.facts;
    let slack = facts.error + 1e-6 * facts.size() + 1e-9;
    let outside = |number: &&f64| !(facts.low - slack..=facts.high + slack).contains(*number);
    let numbers = tensor.numbers();
    if let Some(number) = numbers.iter().find(outside) {
        return Some(format!("{number} comes, {}..{} is claimed", facts.low, facts.high));
    }
    let unit = facts.grid.map(|grid| 2f64.powi(grid))?;
    let odd = numbers.iter().find(|number| (**number * unit).fract() != 0.0);
    odd.map(|number| format!("{number} comes, multiples of {} are claimed", 1.0 / unit))
}

/// Compares the outputs of a run.
fn compared(
    case: &Case,
    precision: &Precision,
    got: &[NamedTensor],
    want: &[NamedTensor],
) -> Result<(), String> {
    for want in want {
        let tolerance = match case.claims.get(&want.name) {
            Some(claim) if claim.facts.is_exact() => Tolerance {
                precision: Precision::of_all(Arithmetic::F32),
                absolute: Some(0.0),
                relative: Some(0.0),
            },
            Some(claim) => Tolerance {
                precision: precision.clone(),
                absolute: Some(claim.facts.error.max(ABSOLUTE)),
                relative: None,
            },
            None => Tolerance::of(precision.clone()),
        };
        let difference = compare(got, std::slice::from_ref(want), &tolerance)
            .map_err(|error| error.to_string())?;
        if let Some(wrong) = difference.wrong {
            return Err(wrong.to_string());
        }
    }
    let extra = got.iter().find(|got| want.iter().all(|want| want.name != got.name));
    extra.map_or(Ok(()), |extra| Err(format!("an output {} that nobody wants", extra.name)))
}
