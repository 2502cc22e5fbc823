//! Loads constants into GPU buffers.

use std::rc::Rc;

use flotilla_program::{Program, ValueId};
use flotilla_protocol::{Backend, LoadError};

use super::{Gpu, GpuModel, gpu::GpuError, host::HostNodes, model::Pipelines};
use crate::{
    platform::Pace,
    weights::{Constants, Sink, memory_bytes, put},
};
use flotilla_kernels::{Signature, kernel};

/// Buffers that are being filled, and the pipelines that will read them.
pub(crate) struct Loading {
    gpu: Rc<Gpu>,
    buffers: Vec<wgpu::Buffer>,
    /// Constants that the page itself computes with, as far as they have arrived, and how many of their bytes are missing.
    words: Vec<Option<(Vec<u32>, u64)>>,
    work: Pipelines,
}

impl Loading {
    /// Creates everything that the program needs for any shapes of its runs, and warms it. On a shared device this is done
    /// pipeline by pipeline, because a driver compiles in the order of the queue, and runs would wait for all of it.
    pub(crate) async fn new(
        gpu: Rc<Gpu>,
        program: &Program,
        constants: &Constants,
        is_shared: bool,
    ) -> Result<Loading, LoadError> {
        check_bindings(&gpu, program, constants)?;
        let scopes = gpu.scopes();
        let buffers = constants
            .refs
            .iter()
            .map(|constant| {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("constant"),
                    size: memory_bytes(constant).max(16).next_multiple_of(16),
                    usage: wgpu::BufferUsages::STORAGE
                        | wgpu::BufferUsages::COPY_DST
                        | wgpu::BufferUsages::COPY_SRC,
                    mapped_at_creation: false,
                })
            })
            .collect();
        let stepwise = if is_shared { warm_stepwise(&gpu, program).await } else { Ok(()) };
        let work = Pipelines::new(&gpu, program);
        let mut words = vec![None; constants.refs.len()];
        for value in (0..program.values.len() as u32).map(ValueId) {
            if let Some(constant) = constants.of(value).filter(|_| work.host.keeps(value)) {
                words[constant] = Some((Vec::new(), memory_bytes(&constants.refs[constant])));
            }
        }
        let made = scopes.end().await.and(stepwise);
        let scopes = gpu.scopes();
        let warmed = if made.is_ok() { gpu.warm().await } else { Ok(()) };
        if let Err(error) = made.and(scopes.end().await).and(warmed) {
            gpu.forget_cold();
            return Err(gpu.explained(error).await.into_load());
        }
        Ok(Loading { gpu, buffers, words, work })
    }

    pub(crate) fn finish(self, program: &Program, constants: Constants) -> GpuModel {
        let words = self.words.into_iter();
        let words = words.map(|words| words.map(|(words, _)| Rc::new(words))).collect();
        GpuModel::new(self.gpu, program, constants, self.buffers, words, self.work)
    }
}

/// Creates and warms the pipelines of a program, one after the other.
async fn warm_stepwise(gpu: &Gpu, program: &Program) -> Result<(), GpuError> {
    let host = HostNodes::new(program);
    let mut pace = Pace::new();
    for node in program.all_nodes().filter(|node| !host.computes(node)) {
        for shader in kernel(&node.op).shaders(&Signature { program, node }) {
            if !gpu.pipeline(&shader).is_warm() {
                gpu.warm().await?;
            }
            pace.rest().await;
        }
    }
    Ok(())
}

/// Refuses bindings that are too large for this adapter, naming the node.
fn check_bindings(gpu: &Gpu, program: &Program, constants: &Constants) -> Result<(), LoadError> {
    let limit = gpu.limits.max_storage_buffer_binding_size;
    for node in program.all_nodes() {
        let refuse = |value: usize, reason: String| {
            let value = &program.values[value];
            Err(LoadError::Unsupported {
                node: node.name.clone(),
                op: node.op.name().to_owned(),
                dtype: format!("{:?}", value.dtype),
                shape: format!(
                    "{:?}",
                    value.shape.iter().map(|dim| dim.as_fixed()).collect::<Vec<_>>()
                ),
                backend: Backend::WebGpu,
                reason,
            })
        };
        for value in &node.inputs {
            if let Some(constant) = constants.of(*value) {
                let bytes = memory_bytes(&constants.refs[constant]);
                if bytes > limit {
                    return refuse(
                        value.index(),
                        format!(
                            "constant {} has {bytes} bytes, this adapter binds at most {limit}",
                            value.0
                        ),
                    );
                }
            }
        }
        let shaders = kernel(&node.op).shaders(&Signature { program, node });
        let buffers = shaders.iter().map(|shader| shader.reads as u32 + 1).max().unwrap_or(0);
        let buffers_max = gpu.limits.max_storage_buffers_per_shader_stage;
        if buffers > buffers_max {
            let output = node.outputs[0].index();
            return refuse(
                output,
                format!("{buffers} storage buffers, this adapter binds at most {buffers_max}"),
            );
        }
    }
    Ok(())
}

impl Sink for Loading {
    fn write(&mut self, constant: usize, offset: u64, bytes: &[u8]) -> Result<(), LoadError> {
        self.gpu.queue.write_buffer(&self.buffers[constant], offset, bytes);
        match &mut self.words[constant] {
            Some((words, missing)) => put(words, missing, offset, bytes),
            None => Ok(()),
        }
    }

    async fn flush(&mut self) -> Result<(), LoadError> {
        // Writes occupy memory of their own until a submit.
        self.gpu.queue.submit([]);
        #[cfg(not(target_arch = "wasm32"))]
        let _ = self.gpu.device.poll(wgpu::PollType::wait_indefinitely());
        match self.gpu.lost() {
            Some(reason) => Err(LoadError::DeviceLost { reason }),
            None => Ok(()),
        }
    }
}
