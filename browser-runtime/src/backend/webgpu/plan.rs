//! What to submit for one set of shapes: made once, used by every run of these shapes.

use std::{collections::HashMap, rc::Rc};

use flotilla_program::{Program, ValueId};
use flotilla_protocol::RunError;

use super::{
    Gpu,
    gpu::Pipeline,
    pool::{Arena, Pool},
};
use crate::{lifetimes::Lifetimes, weights::Constants};
use flotilla_kernels::{Call, Launch, Memory, Scratch, Shapes, Signature, kernel};

/// Bytes between the parameters of two launches (WebGPU, `minUniformBufferOffsetAlignment`).
const PARAMS_STRIDE: usize = 256;

/// A dispatch with everything bound.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) pipeline: Rc<Pipeline>,
    pub(crate) bindings: wgpu::BindGroup,
    pub(crate) groups: [u32; 3],
}

/// A result's place in the staging buffer.
pub(crate) struct Readback {
    pub(crate) from: wgpu::Buffer,
    pub(crate) at: u64,
    pub(crate) bytes: u64,
}

/// Everything of a run but its inputs.
pub(crate) struct Plan {
    pub(crate) symbols: Vec<i64>,
    pub(crate) inputs: Vec<wgpu::Buffer>,
    pub(crate) steps: Vec<Step>,
    pub(crate) outputs: Vec<Readback>,
    pub(crate) staging: wgpu::Buffer,
}

/// What a plan is made of.
pub(crate) struct Parts<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) program: &'a Program,
    pub(crate) constants: &'a Constants,
    pub(crate) buffers: &'a [wgpu::Buffer],
    pub(crate) pipelines: &'a [Vec<Rc<Pipeline>>],
    pub(crate) lifetimes: &'a Lifetimes,
}

impl Plan {
    pub(crate) fn new(
        parts: &Parts<'_>,
        shapes: &Shapes,
        pool: &mut Pool,
    ) -> Result<Plan, RunError> {
        let Parts { gpu, program, constants, lifetimes, .. } = *parts;
        let binding_bytes_max = gpu.limits.max_storage_buffer_binding_size;
        let mut places = Places {
            memory: vec![None; program.values.len()],
            arena: pool.arena(&gpu.device, binding_bytes_max),
            shapes,
            binding_bytes_max,
            scratch: Vec::new(),
        };
        for (constant, value) in (0..program.values.len() as u32).filter_map(|index| {
            let value = ValueId(index);
            constants.of(value).map(|constant| (constant, value))
        }) {
            places.memory[value.index()] = Some(parts.buffers[constant].clone());
        }
        let mut inputs = Vec::new();
        for port in &program.inputs {
            inputs.push(places.place(&port.name, port.value)?);
        }
        let mut launches: Vec<(usize, Launch, Vec<wgpu::Buffer>)> = Vec::new();
        for (index, node) in program.nodes.iter().enumerate() {
            let fail = |reason| RunError::Node { node: node.name.clone(), reason };
            let call = Call { signature: Signature { program, node }, shapes };
            let kernel = kernel(&node.op);
            let wanted = kernel.launches(&call).map_err(fail)?;
            if !kernel.is_alias() {
                let output = places.place(&node.name, node.outputs[0])?;
                for launch in wanted.into_iter().filter(|launch| launch.invocations > 0) {
                    let mut bound = Vec::with_capacity(launch.reads.len() + 1);
                    for &memory in launch.reads.iter().chain([&launch.writes]) {
                        bound.push(match memory {
                            Memory::Input(input) => {
                                let root = lifetimes.root(node.inputs[input]);
                                places.memory[root.index()]
                                    .clone()
                                    .ok_or_else(|| fail("an operand is gone".to_owned()))?
                            }
                            Memory::Output => output.clone(),
                            Memory::Scratch(scratch) => places.scratch(&node.name, scratch)?,
                        });
                    }
                    launches.push((index, launch, bound));
                }
                places.release_scratch();
            }
            for root in lifetimes.dying(index) {
                places.release(*root);
            }
        }
        let mut outputs = Vec::new();
        let mut staged = 0;
        for value in program.results() {
            let root = lifetimes.root(value);
            let bytes = 4 * shapes.elements(value) as u64;
            let from = match &places.memory[root.index()] {
                Some(buffer) => buffer.clone(),
                None => places.place("result", root)?,
            };
            outputs.push(Readback { from, at: staged, bytes });
            staged += bytes.next_multiple_of(16);
        }
        let staging = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size: staged.max(16),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let steps = bind(parts, &launches)?;
        Ok(Plan { symbols: shapes.symbols.clone(), inputs, steps, outputs, staging })
    }
}

/// Where values lie while the plan is being made.
struct Places<'a> {
    memory: Vec<Option<wgpu::Buffer>>,
    arena: Arena<'a>,
    shapes: &'a Shapes,
    binding_bytes_max: u64,
    /// Scratch of the node in the making, by its index.
    scratch: Vec<(usize, wgpu::Buffer)>,
}

impl Places<'_> {
    fn place(&mut self, node: &str, value: ValueId) -> Result<wgpu::Buffer, RunError> {
        let buffer = self.take(node, "result", 4 * self.shapes.elements(value) as u64)?;
        self.memory[value.index()] = Some(buffer.clone());
        Ok(buffer)
    }

    /// Memory of the node in the making; the same for the same index.
    fn scratch(&mut self, node: &str, scratch: Scratch) -> Result<wgpu::Buffer, RunError> {
        if let Some((_, buffer)) = self.scratch.iter().find(|(index, _)| *index == scratch.index) {
            return Ok(buffer.clone());
        }
        let buffer = self.take(node, "scratch", 4 * scratch.words)?;
        self.scratch.push((scratch.index, buffer.clone()));
        Ok(buffer)
    }

    /// Later nodes may use what was scratch.
    fn release_scratch(&mut self) {
        for (_, buffer) in self.scratch.drain(..) {
            self.arena.give(buffer);
        }
    }

    fn take(&mut self, node: &str, what: &str, bytes: u64) -> Result<wgpu::Buffer, RunError> {
        if bytes > self.binding_bytes_max {
            let limit = self.binding_bytes_max;
            let reason =
                format!("its {what} has {bytes} bytes, this adapter binds at most {limit}");
            return Err(RunError::Node { node: node.to_owned(), reason });
        }
        Ok(self.arena.take(bytes))
    }

    fn release(&mut self, value: ValueId) {
        if let Some(buffer) = self.memory[value.index()].take() {
            self.arena.give(buffer);
        }
    }
}

/// Writes all parameters into one buffer and binds each launch to its part. Equal launches of a node share theirs: a
/// recurrent layer has as many as its sequence has steps.
fn bind(
    parts: &Parts<'_>,
    launches: &[(usize, Launch, Vec<wgpu::Buffer>)],
) -> Result<Vec<Step>, RunError> {
    let gpu = parts.gpu;
    let stride = PARAMS_STRIDE.max(gpu.limits.min_uniform_buffer_offset_alignment as usize);
    let mut contents: Vec<u32> = Vec::new();
    let mut known: HashMap<(usize, &Launch), usize> = HashMap::new();
    let mut places = Vec::with_capacity(launches.len());
    for (index, (node, launch, _)) in launches.iter().enumerate() {
        let first = *known.entry((*node, launch)).or_insert(index);
        if first == index {
            let at = contents.len();
            contents.extend(&launch.params);
            contents.resize((contents.len().max(at + 1)).next_multiple_of(stride / 4), 0);
            places.push((index, at..contents.len()));
        } else {
            places.push((first, 0..0));
        }
    }
    let params = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("params"),
        size: (4 * contents.len()).max(stride) as u64,
        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut steps: Vec<Step> = Vec::with_capacity(launches.len());
    for (index, (node, launch, buffers)) in launches.iter().enumerate() {
        let (first, place) = &places[index];
        if *first < index {
            steps.push(steps[*first].clone());
            continue;
        }
        let pipeline = parts.pipelines[*node][launch.shader].clone();
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &params,
                offset: 4 * place.start as u64,
                size: wgpu::BufferSize::new(4 * place.len() as u64),
            }),
        }];
        for (index, buffer) in buffers.iter().enumerate() {
            entries.push(wgpu::BindGroupEntry {
                binding: index as u32 + 1,
                resource: buffer.as_entire_binding(),
            });
        }
        let bindings = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        });
        let groups = launch.check().and_then(|()| launch.groups()).map_err(|reason| {
            RunError::Node { node: parts.program.nodes[*node].name.clone(), reason }
        })?;
        steps.push(Step { pipeline, bindings, groups });
    }
    gpu.queue.write_buffer(&params, 0, bytemuck::cast_slice(&contents));
    Ok(steps)
}
