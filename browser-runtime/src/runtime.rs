//! Devices and loaded programs.

use std::rc::Rc;

use flotilla_model::program::Program;
use flotilla_protocol::{
    AdapterInfo, Backend, BackendReport, BlobSource, LoadError, LoadTerms, RunError, RunReport,
    Split, Tensor,
};
use futures_channel::mpsc;

use crate::{
    backend::{
        DeviceLoss,
        cpu::{self, CpuModel},
        webgpu::{self, Gpu, GpuModel},
    },
    call::{Shapes, Signature},
    faults::Faults,
    fetch::BlobFetcher,
    kernels::kernel,
    lengths::Lengths,
    platform::now_us,
    ports::{to_tensor, to_words},
    weights::{Constants, stream},
};

/// Most losses of devices that wait to be read.
const LOSSES_MAX: usize = 4;

/// Why WebNN is refused.
const NO_WEBNN: &str = "this runtime has no webnn backend";

/// What a runtime may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The backends that are not refused.
    pub backends: Vec<Backend>,
}

impl Default for Options {
    fn default() -> Options {
        Options { backends: vec![Backend::WebGpu, Backend::Cpu] }
    }
}

/// Gives placements their devices. Stays on the thread that made it.
pub struct Runtime {
    options: Options,
    gpu: Option<Rc<Gpu>>,
    generation: u32,
    faults: Faults,
    losses: mpsc::Sender<DeviceLoss>,
    lost: mpsc::Receiver<DeviceLoss>,
}

/// A loaded program that can be run.
pub struct Placement {
    program: Rc<Program>,
    model: Model,
    adapter: AdapterInfo,
    split: Option<Split>,
}

enum Model {
    Cpu(CpuModel),
    WebGpu(Box<GpuModel>),
}

impl Runtime {
    /// A runtime; devices are requested when they are needed.
    pub fn new(options: Options) -> Runtime {
        let (losses, lost) = mpsc::channel(LOSSES_MAX);
        Runtime { options, gpu: None, generation: 0, faults: Faults::default(), losses, lost }
    }

    /// A runtime for native code: the same as [`Runtime::new`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn native(options: Options) -> Runtime {
        Runtime::new(options)
    }

    /// What each backend would run on, or why it would not.
    pub async fn inspect(&mut self) -> Vec<BackendReport> {
        let mut reports = Vec::new();
        for backend in [Backend::WebGpu, Backend::WebNn, Backend::Cpu] {
            let outcome = if backend != Backend::WebNn && !self.options.backends.contains(&backend)
            {
                Err("it is switched off".to_owned())
            } else {
                match backend {
                    Backend::WebGpu => match &self.gpu {
                        Some(gpu) if gpu.lost().is_none() => Ok(gpu.info.clone()),
                        _ => webgpu::inspect().await,
                    },
                    Backend::WebNn => Err(NO_WEBNN.to_owned()),
                    Backend::Cpu => Ok(cpu::adapter()),
                }
            };
            reports.push(BackendReport { backend, device: None, outcome });
        }
        reports
    }

    /// Loads a program and makes it warm. `progress` is told verified and total bytes.
    ///
    /// # Errors
    /// The backend is refused, a node cannot run on it, or weights or memory cannot be had.
    pub async fn load<F: BlobFetcher>(
        &mut self,
        backend: Backend,
        program: Program,
        terms: &LoadTerms,
        fetcher: &mut F,
        source: &BlobSource,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Placement, LoadError> {
        program.check().map_err(|error| LoadError::Program { reason: error.to_string() })?;
        check_support(&program, backend)?;
        let constants = Constants::new(&program);
        let unavailable =
            |reason: &str| LoadError::BackendUnavailable { backend, reason: reason.to_owned() };
        if backend != Backend::WebNn && !self.options.backends.contains(&backend) {
            return Err(unavailable("it is switched off"));
        }
        let (model, adapter) = match backend {
            Backend::Cpu => {
                let mut loading = cpu::Loading::new(&program, &constants);
                stream(&program, &constants, fetcher, source, &mut loading, progress).await?;
                (Model::Cpu(loading.finish(&program, constants)), cpu::adapter())
            }
            Backend::WebGpu => {
                let gpu = self.gpu().await.map_err(|reason| unavailable(&reason))?;
                let adapter = gpu.info.clone();
                let mut loading = webgpu::Loading::new(gpu, &program, &constants).await?;
                stream(&program, &constants, fetcher, source, &mut loading, progress).await?;
                (Model::WebGpu(Box::new(loading.finish(&program, constants))), adapter)
            }
            Backend::WebNn => {
                let _ = terms;
                return Err(unavailable(NO_WEBNN));
            }
        };
        Ok(Placement { program: Rc::new(program), model, adapter, split: None })
    }

    /// The device, a new one if there is none or it is lost.
    async fn gpu(&mut self) -> Result<Rc<Gpu>, String> {
        if let Some(gpu) = &self.gpu
            && gpu.lost().is_none()
        {
            return Ok(gpu.clone());
        }
        self.gpu = None;
        let gpu = Rc::new(Gpu::new(self.generation + 1, self.losses.clone()).await?);
        gpu.check_adapter()?;
        self.generation = gpu.generation;
        self.faults.has_device(&gpu);
        self.gpu = Some(gpu.clone());
        Ok(gpu)
    }

    /// What this runtime can be made to suffer from.
    pub(crate) fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Losses of devices, as they happen; the earlier receiver gets no more.
    pub(crate) fn losses(&mut self) -> mpsc::Receiver<DeviceLoss> {
        std::mem::replace(&mut self.lost, mpsc::channel(0).1)
    }
}

/// How many nodes of a program compute: their kernel runs, and an output needs what it gives. What only gives a value another
/// shape does not compute.
pub fn computing_nodes(program: &Program) -> usize {
    let mut needed = vec![false; program.values.len()];
    for value in program.results() {
        needed[value.index()] = true;
    }
    let mut count = 0;
    for node in program.nodes.iter().rev() {
        if node.outputs.iter().any(|output| needed[output.index()]) {
            count += usize::from(!kernel(&node.op).is_alias());
            node.inputs.iter().for_each(|input| needed[input.index()] = true);
        }
    }
    count
}

/// Refuses the first node that a backend cannot run.
fn check_support(program: &Program, backend: Backend) -> Result<(), LoadError> {
    for node in &program.nodes {
        let signature = Signature { program, node };
        kernel(&node.op).supports(&signature).map_err(|reason| {
            let value = node.inputs.first().or(node.outputs.first()).map(|&id| program.value(id));
            LoadError::Unsupported {
                node: node.name.clone(),
                op: node.op.name().to_owned(),
                dtype: value.map_or(String::new(), |value| format!("{:?}", value.dtype)),
                shape: value.map_or(String::new(), |value| format!("{:?}", value.shape)),
                backend,
                reason,
            }
        })?;
    }
    Ok(())
}

impl Placement {
    /// What it runs on.
    pub fn adapter(&self) -> &AdapterInfo {
        &self.adapter
    }

    /// Which nodes run elsewhere.
    pub fn split(&self) -> Option<&Split> {
        self.split.as_ref()
    }

    /// What it runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Executes the program; inputs and results are in its order.
    ///
    /// # Errors
    /// Inputs that do not fit, a node that fails, too little memory, or a lost device.
    pub async fn run(&mut self, inputs: &[Tensor]) -> Result<(Vec<Tensor>, RunReport), RunError> {
        let start = now_us();
        let program = self.program.clone();
        let given: Vec<&[usize]> = inputs.iter().map(|tensor| tensor.shape.as_slice()).collect();
        let symbols =
            program.bind(&given).map_err(|error| RunError::Inputs { reason: error.to_string() })?;
        let shapes =
            Shapes::new(&program, symbols).map_err(|reason| RunError::Inputs { reason })?;
        let words = program.inputs.iter().zip(inputs).map(|(port, tensor)| to_words(port, tensor));
        let words = words.collect::<Result<Vec<_>, _>>()?;
        check_assumptions(&program, &words)?;
        let (results, pipelines_created) = match &mut self.model {
            Model::Cpu(model) => (model.run(&program, &shapes, words)?, 0),
            Model::WebGpu(model) => {
                let results = model.run(&program, &shapes, words).await?;
                (results, model.pipelines_created())
            }
        };
        let lengths = Lengths::new(&program, &shapes, &results)?;
        let tensors = program.outputs.iter().zip(&results);
        let tensors = tensors.map(|(port, words)| {
            let (shape, words) = lengths.cut(port.value, words)?;
            to_tensor(port, &shape, &words)
        });
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        Ok((tensors, RunReport { run_us: now_us() - start, pipelines_created }))
    }
}

/// Refuses inputs that decide shapes and have another value than the program was made for.
fn check_assumptions(program: &Program, inputs: &[Vec<u32>]) -> Result<(), RunError> {
    for assumed in &program.assumptions {
        let index = assumed.input as usize;
        if inputs[index] != assumed.words {
            let name = &program.inputs[index].name;
            return Err(RunError::Inputs {
                reason: format!(
                    "input {name} decides shapes, and the program was made for another value of it"
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryBlobs, suite};

    #[test]
    fn a_lost_device_is_told_and_replaced_by_the_next_load() {
        let case = suite::cases().swap_remove(0);
        let source = BlobSource { url_prefix: String::new() };
        let mut blobs = MemoryBlobs { blobs: case.weights.clone(), chunk_bytes: 0 };
        let mut runtime = Runtime::native(Options::default());
        let mut losses = runtime.losses();
        let mut load = |runtime: &mut Runtime| {
            let mut ignored = |_, _| {};
            let program = case.program.clone();
            pollster::block_on(runtime.load(
                Backend::WebGpu,
                program,
                &LoadTerms::default(),
                &mut blobs,
                &source,
                &mut ignored,
            ))
        };
        let mut placement = match load(&mut runtime) {
            Ok(placement) => placement,
            Err(error) => return println!("skipped: {error}"),
        };
        assert!(runtime.faults().lose_device(), "there is a device");
        let failed = pollster::block_on(placement.run(&case.inputs));
        assert!(matches!(failed, Err(RunError::DeviceLost { .. })), "{failed:?}");
        assert_eq!(losses.try_recv().map(|loss| loss.generation), Ok(1));

        let mut again = load(&mut runtime).expect("a new device");
        assert_eq!(runtime.generation, 2);
        let (outputs, _) = pollster::block_on(again.run(&case.inputs)).expect("it runs");
        case.verify(&outputs).expect("it computes");
        drop((again, runtime, placement));
        assert!(losses.try_recv().is_err(), "a device that was given up is no loss");
    }
}
