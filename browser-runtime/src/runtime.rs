//! Devices and loaded programs.

use std::rc::Rc;

use flotilla_program::{Decoder, Program, ProgramError, SymbolSource};
#[cfg(target_arch = "wasm32")]
use flotilla_protocol::RefusedNode;
use flotilla_protocol::{
    AdapterInfo, Backend, BackendReport, BlobSource, Device, LoadError, LoadTerms, RunError,
    RunReport, Split,
};
use flotilla_tensor::{DType, Tensor};
use futures_channel::mpsc;

#[cfg(target_arch = "wasm32")]
use crate::{
    backend::webnn::{self, NnModel},
    buckets::{self, cut, padded},
    deciding::deciding_nodes,
    split::split,
    stage::Engine,
    usual::usual_shapes,
};
use crate::{
    backend::{
        DeviceLoss, cpu,
        webgpu::{self, Gpu},
    },
    faults::Faults,
    fetch::BlobFetcher,
    platform::{Pace, Traffic, now_us},
    ports::{Words, to_tensor, to_words},
    stage::{EngineLoading, Fan, Stage, StageLoading},
    weights::{Constants, stream},
};
use flotilla_kernels::{Shapes, Signature, kernel, supports};

/// Most losses of devices that wait to be read.
const LOSSES_MAX: usize = 4;

/// Values or nodes that are read or checked between two looks at the clock, which may take longer than one of them.
const STEPS: usize = 64;

/// Why a backend is refused that is not in the options.
const SWITCHED_OFF: &str = "it is switched off";

/// Why WebNN is refused.
#[cfg(not(target_arch = "wasm32"))]
const NO_WEBNN: &str = "WebNN is an interface of browsers, and this is none";

/// The backends that a runtime may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The backends that are not refused.
    pub backends: Vec<Backend>,
}

impl Default for Options {
    fn default() -> Options {
        Options { backends: vec![Backend::WebGpu, Backend::WebNn, Backend::Cpu] }
    }
}

/// Gives placements their devices. Stays on the thread that made it.
pub struct Runtime {
    options: Options,
    gpu: Option<Rc<Gpu>>,
    generation: u32,
    /// Whether something else runs on the device while a program is loaded.
    is_shared: bool,
    traffic: Traffic,
    #[cfg(target_arch = "wasm32")]
    contexts: Contexts,
    faults: Faults,
    losses: mpsc::Sender<DeviceLoss>,
    lost: mpsc::Receiver<DeviceLoss>,
}

/// WebNN's contexts, by the requested device.
#[cfg(target_arch = "wasm32")]
#[derive(Default)]
struct Contexts {
    made: std::collections::BTreeMap<Option<Device>, Rc<webnn::Context>>,
    generation: u32,
}

/// A loaded program that can be run.
pub struct Placement {
    program: Rc<Program>,
    /// One stage, which runs the program itself, or several that run parts of it one after the other.
    stages: Vec<Stage>,
    adapter: AdapterInfo,
    split: Option<Split>,
    traffic: Traffic,
}

impl Runtime {
    /// A runtime; devices are requested when they are needed.
    pub fn new(options: Options) -> Runtime {
        let (losses, lost) = mpsc::channel(LOSSES_MAX);
        Runtime {
            options,
            gpu: None,
            generation: 0,
            is_shared: false,
            traffic: Traffic::default(),
            #[cfg(target_arch = "wasm32")]
            contexts: Contexts::default(),
            faults: Faults::default(),
            losses,
            lost,
        }
    }

    /// A runtime for native code: the same as [`Runtime::new`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn native(options: Options) -> Runtime {
        Runtime::new(options)
    }

    /// Sets whether something else runs on the device while the next programs are loaded. If so, a load gives the device its
    /// work in small pieces.
    pub(crate) fn share(&mut self, is_shared: bool) {
        self.is_shared = is_shared;
    }

    /// What each backend would run on, or why it is refused; webnn is inspected for each device.
    pub async fn inspect(&mut self) -> Vec<BackendReport> {
        let mut reports = Vec::new();
        let devices = Device::ALL.map(|device| (Backend::WebNn, Some(device)));
        let questions = [(Backend::WebGpu, None)].into_iter().chain(devices);
        for (backend, device) in questions.chain([(Backend::Cpu, None)]) {
            let outcome = if self.options.backends.contains(&backend) {
                match backend {
                    Backend::WebGpu => match &self.gpu {
                        Some(gpu) if gpu.lost().is_none() => Ok(gpu.info.clone()),
                        _ => webgpu::inspect().await,
                    },
                    #[cfg(target_arch = "wasm32")]
                    Backend::WebNn => webnn::inspect(device).await,
                    #[cfg(not(target_arch = "wasm32"))]
                    Backend::WebNn => Err(NO_WEBNN.to_owned()),
                    Backend::Cpu => Ok(cpu::adapter()),
                }
            } else {
                Err(SWITCHED_OFF.to_owned())
            };
            reports.push(BackendReport { backend, device, outcome });
        }
        reports
    }

    /// Reads a program, with pauses. [`Runtime::load`] checks it.
    pub(crate) async fn decode(&self, bytes: &[u8]) -> Result<Program, LoadError> {
        let mut pace = Pace::new(self.traffic.clone());
        let mut decoder = Decoder::new(bytes).map_err(refused)?;
        let mut steps: usize = 0;
        while decoder.step().map_err(refused)? {
            steps += 1;
            if steps.is_multiple_of(STEPS) {
                pace.rest().await;
            }
        }
        Ok(decoder.finish())
    }

    /// Checks a program, loads and warms it. `progress` gets verified and total bytes.
    ///
    /// # Errors
    /// The backend is refused, a node cannot run on it, or weights or memory are not available.
    pub async fn load<F: BlobFetcher>(
        &mut self,
        backend: Backend,
        program: Program,
        terms: &LoadTerms,
        fetcher: &mut F,
        source: &BlobSource,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Placement, LoadError> {
        let mut pace = Pace::new(self.traffic.clone());
        check(&program, &mut pace).await?;
        check_support(&program, backend, &mut pace).await?;
        if !self.options.backends.contains(&backend) {
            let reason = SWITCHED_OFF.to_owned();
            return Err(LoadError::BackendUnavailable { backend, reason });
        }
        let program = Rc::new(program);
        // Only webnn needs them.
        #[cfg(target_arch = "wasm32")]
        let shapes = match backend {
            Backend::WebNn => usual_shapes(&program, &terms.sizes),
            Backend::Cpu | Backend::WebGpu => None,
        };
        let (mut loading, adapter, split) = match backend {
            Backend::Cpu | Backend::WebGpu => {
                let (loading, adapter) = self.begin(backend, program.clone(), &mut pace).await?;
                (vec![loading], adapter, None)
            }
            #[cfg(target_arch = "wasm32")]
            Backend::WebNn => self.begin_webnn(&program, terms, shapes.as_ref(), &mut pace).await?,
            #[cfg(not(target_arch = "wasm32"))]
            Backend::WebNn => {
                let _ = terms;
                let reason = NO_WEBNN.to_owned();
                return Err(LoadError::BackendUnavailable { backend, reason });
            }
        };
        let constants = Constants::new(&program);
        let mut fan = Fan::new(&constants, &mut loading);
        stream(&program, &constants, fetcher, source, &mut fan, &mut pace, progress).await?;
        let stages: Vec<Stage> = loading.into_iter().map(StageLoading::finish).collect();
        #[cfg(target_arch = "wasm32")]
        if let Some(shapes) = &shapes {
            prepare(&program, &stages, shapes).await?;
        }
        Ok(Placement { program, stages, adapter, split, traffic: self.traffic.clone() })
    }

    /// Starts to load a program on webgpu or the cpu.
    async fn begin(
        &mut self,
        backend: Backend,
        program: Rc<Program>,
        pace: &mut Pace,
    ) -> Result<(StageLoading, AdapterInfo), LoadError> {
        let constants = Constants::new(&program);
        let (engine, adapter) = if backend == Backend::WebGpu {
            let unavailable = |reason| LoadError::BackendUnavailable { backend, reason };
            let gpu = self.gpu().await.map_err(unavailable)?;
            let adapter = gpu.info.clone();
            let is_shared = self.is_shared;
            let loading = webgpu::Loading::new(gpu, &program, &constants, is_shared, pace).await?;
            (EngineLoading::WebGpu(loading), adapter)
        } else {
            let loading = cpu::Loading::new(&program, &constants);
            (EngineLoading::Cpu(loading), cpu::adapter())
        };
        Ok((StageLoading::new(program, constants, engine), adapter))
    }

    /// Starts to load a program on webnn, in parts if it has nodes that the context does not take.
    #[cfg(target_arch = "wasm32")]
    async fn begin_webnn(
        &mut self,
        program: &Rc<Program>,
        terms: &LoadTerms,
        shapes: Option<&Shapes>,
        pace: &mut Pace,
    ) -> Result<(Vec<StageLoading>, AdapterInfo, Option<Split>), LoadError> {
        let backend = Backend::WebNn;
        let context = self
            .context(terms.device)
            .await
            .map_err(|reason| LoadError::BackendUnavailable { backend, reason })?;
        let adapter = context.info.clone();
        let mut loading = Vec::new();
        let mut program = program.clone();
        let deciding = deciding_nodes(&program);
        if deciding.contains(&true) && deciding.contains(&false) {
            // Numbers for sizes; every backend computes them in addition.
            for part in split(&program, &deciding) {
                let part_program = Rc::new(part.program);
                if part.elsewhere {
                    loading.push(self.begin(Backend::Cpu, part_program, pace).await?.0);
                } else {
                    program = part_program;
                }
            }
        }
        let constants = Constants::new(&program);
        let mut refused = webnn::refused_nodes(&program, &constants, shapes, &context.limits);
        let whole = |program: Rc<Program>, constants: Constants| {
            let loading = webnn::Loading::new(context.clone(), &program, &constants);
            StageLoading::new(program, constants, EngineLoading::WebNn(loading))
        };
        let rest = terms.rest.filter(|&rest| rest != backend);
        if rest.is_some() {
            let known: Vec<usize> = refused.iter().map(|(node, _)| *node).collect();
            let mut late = webnn::input_sized_nodes(&program);
            late.retain(|(node, _)| !known.contains(node));
            // If no nodes would be left for webnn, the run itself may find out.
            if known.len() + late.len() < program.nodes.len() {
                refused.extend(late);
                refused.sort_by_key(|(node, _)| *node);
            }
        }
        if refused.is_empty() {
            loading.push(whole(program, constants));
            return Ok((loading, adapter, None));
        }
        let mut elsewhere = vec![false; program.nodes.len()];
        refused.iter().for_each(|(node, _)| elsewhere[*node] = true);
        let nodes: Vec<RefusedNode> = refused.into_iter().map(|(_, refused)| refused).collect();
        let Some(rest) = rest.filter(|_| nodes.len() < elsewhere.len()) else {
            return Err(LoadError::UnsupportedNodes { backend, nodes });
        };
        let mut parts = 0;
        for part in split(&program, &elsewhere) {
            let part_program = Rc::new(part.program);
            if part.elsewhere {
                check_support(&part_program, rest, pace).await?;
                loading.push(self.begin(rest, part_program, pace).await?.0);
            } else {
                parts += 1;
                let constants = Constants::new(&part_program);
                loading.push(whole(part_program, constants));
            }
        }
        let split =
            Split { parts, nodes: (elsewhere.len() - nodes.len()) as u32, rest, elsewhere: nodes };
        Ok((loading, adapter, Some(split)))
    }

    /// The context for a device; a new one if there is none or it is lost.
    #[cfg(target_arch = "wasm32")]
    async fn context(&mut self, device: Option<Device>) -> Result<Rc<webnn::Context>, String> {
        if let Some(context) = self.contexts.made.get(&device)
            && context.lost().is_none()
        {
            return Ok(context.clone());
        }
        self.contexts.made.remove(&device);
        let generation = self.contexts.generation + 1;
        let context = webnn::Context::new(device, generation, self.losses.clone()).await?;
        let context = Rc::new(context);
        self.contexts.generation = generation;
        self.faults.has_context(&context);
        self.contexts.made.insert(device, context.clone());
        Ok(context)
    }

    /// The device; a new one if there is none or it is lost.
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

    /// The faults that can be injected into this runtime.
    pub(crate) fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Losses of devices, as they happen; an earlier receiver gets no more.
    pub(crate) fn losses(&mut self) -> mpsc::Receiver<DeviceLoss> {
        std::mem::replace(&mut self.lost, mpsc::channel(0).1)
    }
}

/// How many nodes of a program compute: their kernel runs, and an output needs their result. A node that only changes the
/// shape of a value does not compute.
pub fn computing_nodes(program: &Program) -> usize {
    let mut needed = vec![false; program.values.len()];
    let decided = program.symbols.iter().filter_map(|info| match info.source {
        SymbolSource::Element { value, .. } => Some(value),
        SymbolSource::Input | SymbolSource::Extent { .. } => None,
    });
    let inside = program.regions.iter().flat_map(|region| {
        region.results.iter().chain(region.nodes.iter().flat_map(|node| &node.inputs)).copied()
    });
    for value in program.results().chain(decided).chain(inside) {
        needed[value.index()] = true;
    }
    let mut count = 0;
    for node in program.nodes.iter().rev() {
        if node.outputs.iter().any(|output| needed[output.index()]) {
            count += usize::from(!kernel(&node.op).is_alias());
            node.inputs.iter().for_each(|input| needed[input.index()] = true);
        }
    }
    let inside = program.regions.iter().flat_map(|region| &region.nodes);
    count + inside.filter(|node| !kernel(&node.op).is_alias()).count()
}

fn refused(error: ProgramError) -> LoadError {
    LoadError::Program { reason: error.to_string() }
}

/// Checks a program, with pauses.
async fn check(program: &Program, pace: &mut Pace) -> Result<(), LoadError> {
    for (index, step) in program.check_steps().enumerate() {
        step.map_err(refused)?;
        if index.is_multiple_of(STEPS) {
            pace.rest().await;
        }
    }
    Ok(())
}

/// Refuses the first node that a backend cannot run.
async fn check_support(
    program: &Program,
    backend: Backend,
    pace: &mut Pace,
) -> Result<(), LoadError> {
    for (index, node) in program.all_nodes().enumerate() {
        if index.is_multiple_of(STEPS) {
            pace.rest().await;
        }
        let signature = Signature { program, node };
        supports(&signature).map_err(|reason| {
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

    /// Bytes of the program's blobs.
    pub fn weights_bytes(&self) -> u64 {
        self.program.blobs.iter().map(|blob| blob.bytes).sum()
    }

    /// Bytes of memory that hold the program's constants.
    pub fn device_bytes(&self) -> u64 {
        self.stages.iter().map(Stage::device_bytes).sum()
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
        self.traffic.note();
        let result = self.run_now(inputs).await;
        self.traffic.note();
        result
    }

    async fn run_now(&mut self, inputs: &[Tensor]) -> Result<(Vec<Tensor>, RunReport), RunError> {
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
        check_bounds(&program, &words, &given)?;
        #[cfg(target_arch = "wasm32")]
        let (shapes, results) = self.compute_in_bucket(shapes, words).await?;
        #[cfg(not(target_arch = "wasm32"))]
        let (shapes, results) = self.compute(shapes, flat(words)).await?;
        let pipelines_created = self.stages.iter().map(Stage::created).sum();
        let mut results = results.iter();
        let mut next = || results.next().map_or(&[][..], Vec::as_slice);
        let tensors = program.outputs.iter().map(|port| {
            let (low, high) = (next(), port.high.map(|_| next()));
            to_tensor(port, shapes.of(port.value), low, high)
        });
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        Ok((tensors, RunReport { run_us: now_us() - start, pipelines_created }))
    }
}

/// The words of inputs, in the order of [`Program::given`].
fn flat(inputs: Vec<Words>) -> Vec<Vec<u32>> {
    inputs.into_iter().flat_map(|words| [Some(words.low), words.high]).flatten().collect()
}

#[cfg(target_arch = "wasm32")]
impl Placement {
    /// Runs with a graph that exists or is built, whose sizes may be somewhat larger than these.
    async fn compute_in_bucket(
        &mut self,
        shapes: Shapes,
        inputs: Vec<Words>,
    ) -> Result<(Shapes, Vec<Vec<u32>>), RunError> {
        let program = self.program.clone();
        let models: Vec<&NnModel> = self
            .stages
            .iter()
            .filter_map(|stage| match &stage.engine {
                Engine::WebNn(model) => Some(model),
                Engine::Cpu(_) | Engine::WebGpu(_) => None,
            })
            .collect();
        let symbols: Option<Vec<i64>> = shapes.symbols().iter().copied().collect();
        let (Some(first), Some(symbols)) = (models.first(), symbols) else {
            return self.compute(shapes, flat(inputs)).await;
        };
        let allowed = buckets::allowed(&program, &shapes, &inputs);
        let wanted = buckets::wanted(&allowed, &symbols);
        let mut ready = first.ready();
        ready.retain(|symbols| models.iter().all(|model| model.is_ready(symbols)));
        let sized = |symbols: &[i64]| {
            let symbols = symbols.iter().copied().map(Some).collect();
            Shapes::new(&program, symbols).map_err(|reason| RunError::Inputs { reason })
        };
        let mut used = wanted.as_slice();
        if !ready.contains(&wanted)
            && let Some(other) = buckets::substitute(&allowed, &symbols, &wanted, &ready)
        {
            for model in &models {
                model.prepare_later(sized(&wanted)?);
            }
            used = other;
        }
        if used == symbols {
            return self.compute(shapes, flat(inputs)).await;
        }
        let larger = sized(used)?;
        let inputs = program.given().zip(flat(inputs));
        let inputs = inputs.map(|(value, words)| padded(value, &shapes, &larger, words)).collect();
        let (larger, results) = self.compute(larger, inputs).await?;
        let results = program.results().zip(results);
        let results = results.map(|(value, words)| cut(value, &larger, &shapes, words)).collect();
        Ok((shapes, results))
    }
}

impl Placement {
    /// Runs stage after stage; `inputs` are in the order of [`Program::given`]. Returns every shape, and the results in the
    /// order of [`Program::results`].
    async fn compute(
        &mut self,
        mut shapes: Shapes,
        inputs: Vec<Vec<u32>>,
    ) -> Result<(Shapes, Vec<Vec<u32>>), RunError> {
        if let [whole] = self.stages.as_mut_slice() {
            let results = whole.run(&mut shapes, inputs).await?;
            return Ok((shapes, results));
        }
        let mut values: Vec<Option<Vec<u32>>> = vec![None; self.program.values.len()];
        for (value, words) in self.program.given().zip(inputs) {
            values[value.index()] = Some(words);
        }
        for stage in &mut self.stages {
            let program = stage.program.clone();
            let given = program.given();
            let given = given.map(|value| values[value.index()].clone().unwrap_or_default());
            let given = given.collect();
            for (value, words) in program.results().zip(stage.run(&mut shapes, given).await?) {
                values[value.index()] = Some(words);
            }
        }
        let results = self.program.results();
        let results = results.map(|value| values[value.index()].clone().unwrap_or_default());
        let results = results.collect();
        Ok((shapes, results))
    }
}

/// Builds the graphs of webnn's stages for later runs, so that the browser's refusals are known.
#[cfg(target_arch = "wasm32")]
async fn prepare(program: &Program, stages: &[Stage], shapes: &Shapes) -> Result<(), LoadError> {
    for stage in stages {
        if let Engine::WebNn(model) = &stage.engine
            && model.has_sizes(shapes)
        {
            let prepared = model.prepare(shapes).await;
            prepared.map_err(|error| error.into_load(&program.name))?;
        }
    }
    Ok(())
}

/// Refuses inputs that decide shapes and have another value than the one for which the program was made.
fn check_assumptions(program: &Program, inputs: &[Words]) -> Result<(), RunError> {
    for assumed in &program.assumptions {
        let index = assumed.input as usize;
        if inputs[index].low != assumed.words {
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

/// Refuses integers with which the program cannot compute in 32 bits.
fn check_bounds(program: &Program, inputs: &[Words], shapes: &[&[usize]]) -> Result<(), RunError> {
    let largest = shapes.iter().copied().flatten().max().map_or(0, |size| *size as i64);
    for bound in program.bounds.iter().filter(|bound| largest > bound.above) {
        let port = &program.inputs[bound.input as usize];
        let signed = program.value(port.value).dtype == DType::I32;
        let number = |word: &u32| if signed { i64::from(*word as i32) } else { i64::from(*word) };
        let words = inputs[bound.input as usize].low.iter().map(number);
        if let Some(over) = words.into_iter().find(|number| number.abs() > bound.most) {
            return Err(RunError::Inputs {
                reason: format!(
                    "input {} has {over}, with which the result of node {} may not fit 32 bits; it takes numbers up to {}",
                    port.name, bound.node, bound.most
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryBlobs;

    #[test]
    fn a_lost_device_is_reported_and_replaced_by_the_next_load() {
        let case = flotilla_kernels::cases().swap_remove(0);
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
