//! A program with its constants on the device.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    rc::Rc,
};

use flotilla_program::{Node, Program, ValueId};
use flotilla_protocol::RunError;
use flotilla_tensor::decode;

use super::{
    Gpu,
    gpu::{GpuError, Pipeline, Scopes},
    host::HostNodes,
    plan::{Key, Parts, Plan, Work, check_bytes},
    pool::{BufferId, Lease, Pool},
};
use crate::{
    flow::{Flow, Machine, Stretch, execute, nodes_of},
    platform::Pace,
    weights::Constants,
};
use flotilla_kernels::{Call, Operand, Shapes, Signature, kernel};

/// Most plans that are kept; the least recently used one is dropped.
const PLANS_MAX: usize = 8;

/// Most plans that are kept for a program that is executed in several stretches (sequences of nodes).
const STRETCH_PLANS_MAX: usize = 256;

/// Buffers that are kept to read results from.
const STAGINGS_MAX: usize = 4;

/// A loaded program.
pub(crate) struct GpuModel {
    pub(crate) gpu: Rc<Gpu>,
    flow: Flow,
    work: Pipelines,
    constants: Constants,
    buffers: Vec<wgpu::Buffer>,
    /// Words of the constants that the page itself computes with.
    words: Vec<Option<Rc<Vec<u32>>>>,
    memory: DeviceMemory,
    created_at_load: u32,
}

/// State that may be invalid after a run that failed.
struct DeviceMemory {
    pool: Pool,
    plans: VecDeque<Plan>,
    stagings: Vec<wgpu::Buffer>,
}

/// The pipelines of all nodes.
pub(crate) struct Pipelines {
    pub(crate) host: HostNodes,
    /// By block and node.
    pub(crate) of: Vec<Vec<Vec<Rc<Pipeline>>>>,
    /// By stretch: roots that the device must have before it.
    given: HashMap<(usize, usize), Vec<ValueId>>,
}

impl Pipelines {
    /// Creates the pipelines, with pauses. On a shared device each one is warmed before the next one is created.
    pub(crate) async fn new(
        gpu: &Gpu,
        program: &Program,
        is_shared: bool,
        pace: &mut Pace,
    ) -> Result<Pipelines, GpuError> {
        let mut work = Pipelines {
            host: HostNodes::new(program),
            of: Vec::with_capacity(program.regions.len() + 1),
            given: HashMap::new(),
        };
        for block in 0..=program.regions.len() {
            let mut of_block = Vec::new();
            for node in nodes_of(program, block) {
                let mut of_node = Vec::new();
                if !work.host.computes(node) {
                    for shader in kernel(&node.op).shaders(&Signature { program, node }) {
                        let pipeline = if is_shared {
                            gpu.warm_pipeline(&shader).await?
                        } else {
                            gpu.pipeline(&shader)
                        };
                        of_node.push(pipeline);
                        pace.rest().await;
                    }
                }
                of_block.push(of_node);
            }
            work.of.push(of_block);
        }
        Ok(work)
    }
}

impl DeviceMemory {
    fn new(gpu: &Gpu) -> DeviceMemory {
        let pool = Pool::new(&gpu.device, gpu.limits.max_storage_buffer_binding_size);
        DeviceMemory { pool, plans: VecDeque::new(), stagings: Vec::new() }
    }
}

impl GpuModel {
    pub(crate) fn new(
        gpu: Rc<Gpu>,
        program: &Program,
        constants: Constants,
        buffers: Vec<wgpu::Buffer>,
        words: Vec<Option<Rc<Vec<u32>>>>,
        mut work: Pipelines,
    ) -> GpuModel {
        let flow = Flow::new(program);
        for stretch in flow.stretches(program) {
            // What the device has already, or gets before the stretch.
            let mut known: HashSet<ValueId> = HashSet::new();
            let mut given: Vec<ValueId> = Vec::new();
            for node in stretch.nodes.iter().filter(|node| !work.host.computes(node)) {
                for root in node.inputs.iter().map(|input| flow.root(*input)) {
                    if known.insert(root) && constants.of(root).is_none() {
                        given.push(root);
                    }
                }
                known.extend(&node.outputs);
            }
            work.given.insert(stretch.id, given);
        }
        let memory = DeviceMemory::new(&gpu);
        let created_at_load = gpu.created();
        GpuModel { gpu, flow, work, constants, buffers, words, memory, created_at_load }
    }

    /// Bytes of the buffers that hold constants.
    pub(crate) fn constants_bytes(&self) -> u64 {
        self.buffers.iter().map(wgpu::Buffer::size).sum()
    }

    /// Pipelines created since the load.
    pub(crate) fn pipelines_created(&self) -> u32 {
        self.gpu.created() - self.created_at_load
    }

    /// Executes the program. It takes one submit if no computed value decides what follows. `inputs` are in the order of
    /// [`Program::given`], results in the order of [`Program::results`].
    pub(crate) async fn run(
        &mut self,
        program: &Program,
        shapes: &mut Shapes,
        inputs: Vec<Vec<u32>>,
    ) -> Result<Vec<Vec<u32>>, RunError> {
        if let Some(reason) = self.gpu.lost() {
            return Err(RunError::DeviceLost { reason });
        }
        let mut values: Vec<Memory> = vec![Memory::default(); program.values.len()];
        for (value, words) in program.given().zip(inputs) {
            values[value.index()] = Memory { host: Some(Rc::new(words)), device: None };
        }
        let GpuModel { gpu, flow, work, constants, buffers, words, memory, .. } = self;
        let scopes = Some(gpu.scopes());
        let context = Context { gpu, flow, work, constants, buffers, words, program };
        let mut machine = GpuMachine { context, memory, values, encoder: None, scopes };
        let results: Vec<ValueId> = program.results().collect();
        let result = match execute(context.flow, program, shapes, &mut machine).await {
            Ok(()) => machine.read(shapes, &results).await,
            Err(error) => Err(error),
        };
        let caught = match machine.scopes.take() {
            Some(scopes) => scopes.end().await,
            None => Ok(()),
        };
        drop(machine);
        let result = match caught {
            // The device's refusal comes first: the other error may be its consequence.
            Err(error) => Err(self.gpu.explained(error).await.into_run(&program.name)),
            Ok(()) => result,
        };
        if result.is_err() {
            // Its buffers may be invalid, or mapped.
            self.memory = DeviceMemory::new(&self.gpu);
        }
        result
    }
}

/// Parts that a run does not change.
#[derive(Clone, Copy)]
struct Context<'m> {
    gpu: &'m Gpu,
    flow: &'m Flow,
    work: &'m Pipelines,
    constants: &'m Constants,
    buffers: &'m [wgpu::Buffer],
    words: &'m [Option<Rc<Vec<u32>>>],
    program: &'m Program,
}

struct GpuMachine<'m> {
    context: Context<'m>,
    memory: &'m mut DeviceMemory,
    /// By root.
    values: Vec<Memory>,
    /// Commands that are recorded and not submitted.
    encoder: Option<wgpu::CommandEncoder>,
    scopes: Option<Scopes>,
}

/// Where a value is stored: in the page, on the device, or both.
#[derive(Clone, Default)]
struct Memory {
    host: Option<Rc<Vec<u32>>>,
    device: Option<Device>,
}

#[derive(Clone)]
struct Device {
    id: BufferId,
    buffer: wgpu::Buffer,
    /// For a value that is not a constant.
    _lease: Option<Rc<Lease>>,
}

impl From<Lease> for Device {
    fn from(lease: Lease) -> Device {
        Device { id: lease.id, buffer: lease.buffer.clone(), _lease: Some(Rc::new(lease)) }
    }
}

impl Context<'_> {
    fn memory(&self, values: &[Memory], root: ValueId) -> Memory {
        let Some(constant) = self.constants.of(root) else { return values[root.index()].clone() };
        let buffer = self.buffers[constant].clone();
        let device = Device { id: BufferId::of_constant(constant), buffer, _lease: None };
        Memory { host: self.words[constant].clone(), device: Some(device) }
    }

    fn host(&self, values: &[Memory], shapes: &Shapes, node: &Node) -> Result<Vec<u32>, String> {
        let call = Call { signature: Signature { program: self.program, node }, shapes };
        let words: Vec<Option<Rc<Vec<u32>>>> = node
            .inputs
            .iter()
            .map(|input| self.memory(values, self.flow.root(*input)).host)
            .collect();
        let operands: Option<Vec<Operand<'_>>> =
            words.iter().map(|words| Some(Operand::Plain(words.as_deref()?.as_slice()))).collect();
        let operands = operands.ok_or("an operand is not in the page")?;
        let mut output = vec![0; call.elements()];
        kernel(&node.op).compute(&call, &operands, &mut output)?;
        Ok(output)
    }
}

impl GpuMachine<'_> {
    fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        let device = &self.context.gpu.device;
        self.encoder.get_or_insert_with(|| device.create_command_encoder(&Default::default()))
    }

    fn submit(&mut self) {
        if let Some(encoder) = self.encoder.take() {
            self.context.gpu.queue.submit([encoder.finish()]);
        }
    }

    /// A buffer that holds these words.
    fn uploaded(&mut self, name: &str, words: &[u32]) -> Result<Device, RunError> {
        let bytes = 4 * words.len() as u64;
        check_bytes(self.context.gpu, name, "result", bytes)?;
        // A write is executed before everything that is not submitted yet, and the buffer may be in use there.
        self.submit();
        let lease = self.memory.pool.take(bytes);
        if !words.is_empty() {
            self.context.gpu.queue.write_buffer(&lease.buffer, 0, bytemuck::cast_slice(words));
        }
        Ok(lease.into())
    }

    /// The memory of a root, also on the device.
    fn on_device(&mut self, name: &str, root: ValueId) -> Result<Device, RunError> {
        let memory = self.context.memory(&self.values, root);
        if let Some(device) = memory.device {
            return Ok(device);
        }
        let words = memory.host.ok_or_else(|| RunError::Backend {
            node: name.to_owned(),
            reason: "an operand was freed already".to_owned(),
        })?;
        let device = self.uploaded(name, &words)?;
        self.values[root.index()].device = Some(device.clone());
        Ok(device)
    }

    /// The buffers of the values that the device computes in a stretch, after a plan for it is in front.
    fn plan(
        &mut self,
        shapes: &Shapes,
        stretch: Stretch<'_>,
        given: Vec<BufferId>,
    ) -> Result<Vec<(ValueId, Lease)>, RunError> {
        let Context { gpu, flow, work, constants, buffers, program, .. } = self.context;
        let DeviceMemory { pool, plans, .. } = &mut *self.memory;
        let key = Key { stretch: stretch.id, symbols: shapes.symbols().to_vec(), given };
        let known = plans.iter().position(|plan| plan.key == key);
        if let Some(plan) = known.and_then(|index| plans.remove(index))
            && let Some(made) = plan.begin(pool)
        {
            plans.push_front(plan);
            return Ok(made);
        }
        let (block, first) = stretch.id;
        let nodes = stretch.nodes.iter().zip(stretch.dying).enumerate();
        let work: Vec<Work<'_>> = nodes
            .map(|(index, (node, dying))| Work {
                node: (!work.host.computes(node)).then_some(node),
                pipelines: &work.of[block][first + index],
                dying,
            })
            .collect();
        let values = &self.values;
        let buffer = |root: ValueId| match constants.of(root) {
            Some(constant) => Some(buffers[constant].clone()),
            None => Some(values[root.index()].device.as_ref()?.buffer.clone()),
        };
        let parts = Parts { gpu, program, shapes, flow, pool, given: &buffer };
        let plan = Plan::new(key, &parts, &work)?;
        let made = plan.begin(pool).ok_or_else(|| RunError::Backend {
            node: program.name.clone(),
            reason: "buffers of a new plan are in use".to_owned(),
        })?;
        plans.push_front(plan);
        plans.truncate(if flow.is_straight() { PLANS_MAX } else { STRETCH_PLANS_MAX });
        Ok(made)
    }

    /// Records the plan in front.
    fn record(&mut self) {
        let Some(plan) = self.memory.plans.front().filter(|plan| !plan.steps.is_empty()) else {
            return;
        };
        let device = &self.context.gpu.device;
        let encoder =
            self.encoder.get_or_insert_with(|| device.create_command_encoder(&Default::default()));
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for step in &plan.steps {
            let [x, y, z] = step.groups;
            pass.set_pipeline(&step.pipeline.pipeline);
            pass.set_bind_group(0, &step.bindings, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// A buffer of at least this many bytes to read from.
    fn staging(&mut self, bytes: u64) -> wgpu::Buffer {
        let fits = |buffer: &wgpu::Buffer| {
            buffer.size() >= bytes && buffer.size() <= bytes.saturating_mul(4).max(4096)
        };
        let stagings = &mut self.memory.stagings;
        if let Some(index) = stagings.iter().position(fits) {
            return stagings.remove(index);
        }
        self.context.gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size: bytes.max(256).next_multiple_of(16),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// Submits what is recorded and waits until a buffer is mapped.
    async fn map(&mut self, staging: &wgpu::Buffer) -> Result<(), RunError> {
        self.submit();
        let gpu = self.context.gpu;
        let caught = self.scopes.take().map(Scopes::end);
        let mapped = gpu.map(staging).await;
        let caught = match caught {
            Some(caught) => caught.await,
            None => Ok(()),
        };
        self.scopes = Some(gpu.scopes());
        match caught.and(mapped) {
            Ok(()) => Ok(()),
            Err(error) => Err(gpu.explained(error).await.into_run(&self.context.program.name)),
        }
    }
}

impl Machine for GpuMachine<'_> {
    type Memory = Memory;

    fn compute(&mut self, shapes: &Shapes, stretch: Stretch<'_>) -> Result<(), RunError> {
        let Context { work, .. } = self.context;
        let mut on_device = false;
        for node in stretch.nodes {
            if !work.host.computes(node) {
                on_device = true;
                continue;
            }
            if kernel(&node.op).is_alias() {
                continue;
            }
            let words = self.context.host(&self.values, shapes, node);
            let words =
                words.map_err(|reason| RunError::Node { node: node.name.clone(), reason })?;
            self.values[node.outputs[0].index()].host = Some(Rc::new(words));
        }
        if on_device {
            let mut given = Vec::new();
            for root in work.given.get(&stretch.id).into_iter().flatten() {
                given.push(self.on_device(&self.context.program.name, *root)?.id);
            }
            let made = self.plan(shapes, stretch, given)?;
            self.record();
            for (root, lease) in made {
                self.values[root.index()].device = Some(lease.into());
            }
        }
        for root in stretch.dying.iter().flatten() {
            self.values[root.index()] = Memory::default();
        }
        Ok(())
    }

    async fn read(
        &mut self,
        shapes: &Shapes,
        values: &[ValueId],
    ) -> Result<Vec<Vec<u32>>, RunError> {
        let Context { flow, .. } = self.context;
        let memories = values.iter().map(|value| {
            let memory = self.context.memory(&self.values, flow.root(*value));
            (memory, 4 * shapes.elements(*value) as u64)
        });
        let memories: Vec<(Memory, u64)> = memories.collect();
        let mut staged = Vec::new();
        let mut total = 0;
        for (memory, bytes) in &memories {
            if let (Memory { host: None, device: Some(device) }, 1..) = (memory, *bytes) {
                staged.push((device.buffer.clone(), total, *bytes));
                total += bytes.next_multiple_of(16);
            }
        }
        let mut read = Vec::new();
        if !staged.is_empty() {
            let staging = self.staging(total);
            let encoder = self.encoder();
            for (buffer, at, bytes) in &staged {
                encoder.copy_buffer_to_buffer(buffer, 0, &staging, *at, *bytes);
            }
            self.map(&staging).await?;
            let lost =
                |error: &dyn std::fmt::Display| RunError::DeviceLost { reason: error.to_string() };
            let mapped = staging.slice(..).get_mapped_range().map_err(|error| lost(&error))?;
            for (_, at, bytes) in &staged {
                let bytes = &mapped[*at as usize..(at + bytes) as usize];
                read.push(decode(bytes, u32::from_le_bytes));
            }
            drop(mapped);
            staging.unmap();
            self.memory.stagings.push(staging);
            if self.memory.stagings.len() > STAGINGS_MAX {
                self.memory.stagings.remove(0);
            }
        }
        let mut read = read.into_iter();
        let words = memories.into_iter().map(|memory| match memory {
            (Memory { host: Some(words), .. }, _) => Rc::unwrap_or_clone(words),
            (Memory { device: Some(_), .. }, 1..) => read.next().unwrap_or_default(),
            _ => Vec::new(),
        });
        Ok(words.collect())
    }

    fn memory(&self, root: ValueId) -> Option<Memory> {
        let memory = self.context.memory(&self.values, root);
        (memory.host.is_some() || memory.device.is_some()).then_some(memory)
    }

    fn set(&mut self, root: ValueId, memory: Option<Memory>) {
        self.values[root.index()] = memory.unwrap_or_default();
    }

    fn word(&mut self, word: u32) -> Memory {
        Memory { host: Some(Rc::new(vec![word])), device: None }
    }

    fn joined(&mut self, parts: Vec<Memory>, elements: usize) -> Result<Memory, RunError> {
        if let Some(host) = parts.iter().map(|part| part.host.as_deref()).collect() {
            let host: Vec<&Vec<u32>> = host;
            let joined = host.into_iter().flatten().copied().collect();
            return Ok(Memory { host: Some(Rc::new(joined)), device: None });
        }
        let name = &self.context.program.name;
        let bytes = 4 * elements as u64;
        check_bytes(self.context.gpu, name, "result", bytes * parts.len() as u64)?;
        let joined = self.memory.pool.take(bytes * parts.len() as u64);
        for (index, part) in parts.into_iter().enumerate().filter(|_| bytes > 0) {
            let device = match part {
                Memory { device: Some(device), .. } => device,
                Memory { host, .. } => self.uploaded(name, &host.unwrap_or_default())?,
            };
            let at = index as u64 * bytes;
            self.encoder().copy_buffer_to_buffer(&device.buffer, 0, &joined.buffer, at, bytes);
        }
        Ok(Memory { host: None, device: Some(joined.into()) })
    }
}
