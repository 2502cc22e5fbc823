//! The dispatches for a stretch of nodes (a sequence without read-backs): made once and reused while shapes and
//! buffers are the same.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use flotilla_program::{Node, Program, ValueId};
use flotilla_protocol::RunError;

use super::{
    Gpu,
    gpu::Pipeline,
    pool::{BufferId, Lease, Pool},
};
use crate::flow::Flow;
use flotilla_kernels::{Call, Launch, Memory, Scratch, Shapes, Signature, kernel};

/// Bytes between the parameters of two launches (WebGPU, `minUniformBufferOffsetAlignment`).
const PARAMS_STRIDE: usize = 256;

/// A dispatch with its bindings.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) pipeline: Rc<Pipeline>,
    pub(crate) bindings: wgpu::BindGroup,
    pub(crate) groups: [u32; 3],
}

/// What selects a plan.
#[derive(PartialEq, Eq)]
pub(crate) struct Key {
    /// Which stretch.
    pub(crate) stretch: (usize, usize),
    pub(crate) symbols: Vec<Option<i64>>,
    /// The buffers of its inputs.
    pub(crate) given: Vec<BufferId>,
}

/// Everything of a stretch but its inputs.
pub(crate) struct Plan {
    pub(crate) key: Key,
    pub(crate) steps: Vec<Step>,
    /// Buffers that it uses, with their sizes; those of `made` come first.
    buffers: Vec<(u64, BufferId)>,
    /// Roots that have values afterwards.
    made: Vec<ValueId>,
}

/// What a plan is made from.
pub(crate) struct Parts<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) program: &'a Program,
    pub(crate) shapes: &'a Shapes,
    pub(crate) flow: &'a Flow,
    pub(crate) pool: &'a Pool,
    /// Buffers of the values that exist before it, by root.
    pub(crate) given: &'a dyn Fn(ValueId) -> Option<wgpu::Buffer>,
}

/// A node of a stretch.
pub(crate) struct Work<'a> {
    /// If the device computes it.
    pub(crate) node: Option<&'a Node>,
    pub(crate) pipelines: &'a [Rc<Pipeline>],
    /// Roots that no later node needs.
    pub(crate) dying: &'a [ValueId],
}

/// A dispatch of a node.
struct Bound<'a> {
    /// The node's place in the stretch.
    at: usize,
    node: &'a Node,
    pipeline: &'a Rc<Pipeline>,
    launch: Launch,
    buffers: Vec<wgpu::Buffer>,
}

impl Plan {
    pub(crate) fn new(key: Key, parts: &Parts<'_>, work: &[Work<'_>]) -> Result<Plan, RunError> {
        let mut places =
            Places { parts, leases: BTreeMap::new(), used: Vec::new(), scratch: Vec::new() };
        let mut launches: Vec<Bound<'_>> = Vec::new();
        for (at, own) in work.iter().enumerate() {
            let Some(node) = own.node else { continue };
            let fail = |reason| RunError::Node { node: node.name.clone(), reason };
            let signature = Signature { program: parts.program, node };
            let kernel = kernel(&node.op);
            let call = Call { signature, shapes: parts.shapes };
            let wanted = kernel.launches(&call).map_err(fail)?;
            if !kernel.is_alias() {
                let output = places.place(&node.name, node.outputs[0])?;
                for launch in wanted.into_iter().filter(|launch| launch.invocations > 0) {
                    let mut buffers = Vec::with_capacity(launch.reads.len() + 1);
                    for &memory in launch.reads.iter().chain([&launch.writes]) {
                        buffers.push(match memory {
                            Memory::Input(input) => places
                                .of(parts.flow.root(node.inputs[input]))
                                .ok_or_else(|| RunError::Backend {
                                    node: node.name.clone(),
                                    reason: "an operand was freed already".to_owned(),
                                })?,
                            Memory::Output => output.clone(),
                            Memory::Scratch(scratch) => places.scratch(&node.name, scratch)?,
                        });
                    }
                    let pipeline = &own.pipelines[launch.shader];
                    launches.push(Bound { at, node, pipeline, launch, buffers });
                }
                places.scratch.clear();
            }
            own.dying.iter().for_each(|root| drop(places.leases.remove(root)));
        }
        let steps = bind(parts, &launches)?;
        let Places { leases, used, .. } = places;
        let of = |lease: &Lease| (lease.buffer.size(), lease.id);
        let mut buffers: Vec<(u64, BufferId)> = leases.values().map(of).collect();
        let passing = used.into_iter().filter(|buffer| !buffers.contains(buffer));
        let passing: Vec<_> = passing.collect();
        buffers.extend(passing);
        Ok(Plan { key, steps, buffers, made: leases.into_keys().collect() })
    }

    /// Takes the buffers that it uses, if they are free, and returns those of the roots that have values afterwards.
    pub(crate) fn begin(&self, pool: &Pool) -> Option<Vec<(ValueId, Lease)>> {
        let leases = pool.take_again(&self.buffers)?;
        Some(self.made.iter().copied().zip(leases).collect())
    }
}

/// Where values are stored while the plan is being made.
struct Places<'a> {
    parts: &'a Parts<'a>,
    leases: BTreeMap<ValueId, Lease>,
    /// Every buffer that was taken, with its size.
    used: Vec<(u64, BufferId)>,
    /// Scratch memory of the node that is being planned, by its index.
    scratch: Vec<(usize, Lease)>,
}

impl Places<'_> {
    fn of(&self, root: ValueId) -> Option<wgpu::Buffer> {
        let own = self.leases.get(&root).map(|lease| lease.buffer.clone());
        own.or_else(|| (self.parts.given)(root))
    }

    fn place(&mut self, node: &str, value: ValueId) -> Result<wgpu::Buffer, RunError> {
        let lease = self.take(node, "result", 4 * self.parts.shapes.elements(value) as u64)?;
        let buffer = lease.buffer.clone();
        self.leases.insert(value, lease);
        Ok(buffer)
    }

    /// Scratch memory of the node that is being planned; the same for the same index.
    fn scratch(&mut self, node: &str, scratch: Scratch) -> Result<wgpu::Buffer, RunError> {
        if let Some((_, lease)) = self.scratch.iter().find(|(index, _)| *index == scratch.index) {
            return Ok(lease.buffer.clone());
        }
        let lease = self.take(node, "scratch", 4 * scratch.words)?;
        let buffer = lease.buffer.clone();
        self.scratch.push((scratch.index, lease));
        Ok(buffer)
    }

    fn take(&mut self, node: &str, what: &str, bytes: u64) -> Result<Lease, RunError> {
        check_bytes(self.parts.gpu, node, what, bytes)?;
        let lease = self.parts.pool.take(bytes);
        let used = (lease.buffer.size(), lease.id);
        if !self.used.contains(&used) {
            self.used.push(used);
        }
        Ok(lease)
    }
}

/// Refuses a value that the adapter cannot bind.
pub(crate) fn check_bytes(gpu: &Gpu, node: &str, what: &str, bytes: u64) -> Result<(), RunError> {
    let limit = gpu.limits.max_storage_buffer_binding_size;
    if bytes <= limit {
        return Ok(());
    }
    let reason = format!("its {what} has {bytes} bytes, this adapter binds at most {limit}");
    Err(RunError::Node { node: node.to_owned(), reason })
}

/// Writes all parameters into one buffer and binds each launch to its part. Equal launches of a node share theirs: a
/// recurrent layer has as many launches as its sequence has steps.
fn bind(parts: &Parts<'_>, launches: &[Bound<'_>]) -> Result<Vec<Step>, RunError> {
    let gpu = parts.gpu;
    let stride = PARAMS_STRIDE.max(gpu.limits.min_uniform_buffer_offset_alignment as usize);
    let mut contents: Vec<u32> = Vec::new();
    let mut known: HashMap<(usize, &Launch), usize> = HashMap::new();
    let mut places = Vec::with_capacity(launches.len());
    for (index, bound) in launches.iter().enumerate() {
        let first = *known.entry((bound.at, &bound.launch)).or_insert(index);
        if first == index {
            let at = contents.len();
            contents.extend(&bound.launch.params);
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
    for (index, (bound, (first, place))) in launches.iter().zip(&places).enumerate() {
        if *first < index {
            steps.push(steps[*first].clone());
            continue;
        }
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &params,
                offset: 4 * place.start as u64,
                size: wgpu::BufferSize::new(4 * place.len() as u64),
            }),
        }];
        for (index, buffer) in bound.buffers.iter().enumerate() {
            entries.push(wgpu::BindGroupEntry {
                binding: index as u32 + 1,
                resource: buffer.as_entire_binding(),
            });
        }
        let bindings = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &bound.pipeline.layout,
            entries: &entries,
        });
        let launch = &bound.launch;
        let groups = launch
            .check()
            .and_then(|()| launch.groups())
            .map_err(|reason| RunError::Node { node: bound.node.name.clone(), reason })?;
        steps.push(Step { pipeline: Rc::clone(bound.pipeline), bindings, groups });
    }
    gpu.queue.write_buffer(&params, 0, bytemuck::cast_slice(&contents));
    Ok(steps)
}
