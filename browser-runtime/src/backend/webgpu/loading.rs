//! Loads constants into GPU buffers.

use std::rc::Rc;

use flotilla_program::{Program, ValueId};
use flotilla_protocol::{Backend, LoadError};

use super::{Gpu, GpuModel, model::Pipelines};
use crate::{
    platform::Pace,
    weights::{Constants, Sink, put},
};
use flotilla_kernels::{Signature, kernel};

/// Bytes that a shared device may have to allocate or write before a load waits for it, while other placements are in use. A
/// software adapter writes them in about a millisecond.
const BUSY_BYTES_MAX: u64 = 1 << 20;

/// The same while no other placement is in use.
const QUIET_BYTES_MAX: u64 = 8 << 20;

/// Work of a shared device that nothing has waited for; runs would wait for all of it.
struct Backlog {
    is_shared: bool,
    bytes: u64,
}

/// Buffers that are being filled, and the pipelines that will read them.
pub(crate) struct Loading {
    gpu: Rc<Gpu>,
    buffers: Vec<wgpu::Buffer>,
    /// Which of them something was written to.
    written: Vec<bool>,
    /// Constants that the page itself computes with, as far as they have arrived, and how many of their bytes are missing.
    words: Vec<Option<(Vec<u32>, u64)>>,
    work: Pipelines,
    backlog: Backlog,
}

impl Loading {
    /// Creates everything that the program needs for any shapes of its runs, and warms it. On a shared device this is done
    /// buffer by buffer and pipeline by pipeline, because a driver allocates and compiles in the order of the queue, and runs
    /// would wait for all of it.
    pub(crate) async fn new(
        gpu: Rc<Gpu>,
        program: &Program,
        constants: &Constants,
        is_shared: bool,
        pace: &mut Pace,
    ) -> Result<Loading, LoadError> {
        check_bindings(&gpu, program, constants, pace).await?;
        let scopes = gpu.scopes();
        let mut backlog = Backlog { is_shared, bytes: 0 };
        let mut buffers = Vec::with_capacity(constants.refs.len());
        for constant in &constants.refs {
            let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("constant"),
                size: constant.memory_bytes().max(16).next_multiple_of(16),
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_DST
                    | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            backlog.add(buffer.size());
            buffers.push(buffer);
            backlog.limit(&gpu, pace).await;
        }
        let work = Pipelines::new(&gpu, program, is_shared, pace).await;
        let made = scopes.end().await;
        let scopes = gpu.scopes();
        let warmed = if made.is_ok() && work.is_ok() { gpu.warm().await } else { Ok(()) };
        let work = match (made.and(work), scopes.end().await.and(warmed)) {
            (Ok(work), Ok(())) => work,
            (Err(error), _) | (_, Err(error)) => {
                gpu.forget_cold();
                return Err(gpu.explained(error).await.into_load());
            }
        };
        let mut words = vec![None; constants.refs.len()];
        for value in (0..program.values.len() as u32).map(ValueId) {
            if let Some(constant) = constants.of(value).filter(|_| work.host.keeps(value)) {
                words[constant] = Some((Vec::new(), constants.refs[constant].memory_bytes()));
            }
        }
        let written = vec![false; buffers.len()];
        Ok(Loading { gpu, buffers, written, words, work, backlog })
    }

    pub(crate) fn finish(self, program: &Program, constants: Constants) -> GpuModel {
        let words = self.words.into_iter();
        let words = words.map(|words| words.map(|(words, _)| Rc::new(words))).collect();
        GpuModel::new(self.gpu, program, constants, self.buffers, words, self.work)
    }
}

impl Backlog {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Waits for the device if it has too much to do.
    async fn limit(&mut self, gpu: &Gpu, pace: &Pace) {
        if self.is_over(pace.is_busy()) {
            gpu.idle().await;
            self.bytes = 0;
        }
    }

    fn is_over(&self, is_busy: bool) -> bool {
        let most = if is_busy { BUSY_BYTES_MAX } else { QUIET_BYTES_MAX };
        self.is_shared && self.bytes >= most
    }
}

/// Refuses bindings that are too large for this adapter, naming the node.
async fn check_bindings(
    gpu: &Gpu,
    program: &Program,
    constants: &Constants,
    pace: &mut Pace,
) -> Result<(), LoadError> {
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
                let bytes = constants.refs[constant].memory_bytes();
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
        pace.rest().await;
    }
    Ok(())
}

impl Sink for Loading {
    fn write(&mut self, constant: usize, offset: u64, bytes: &[u8]) -> Result<(), LoadError> {
        let buffer = &self.buffers[constant];
        self.gpu.queue.write_buffer(buffer, offset, bytes);
        // Browsers fill a buffer with zeros before the first write that does not cover it.
        let is_first = !std::mem::replace(&mut self.written[constant], true);
        self.backlog.add(if is_first { buffer.size() } else { bytes.len() as u64 });
        match &mut self.words[constant] {
            Some((words, missing)) => put(words, missing, offset, bytes),
            None => Ok(()),
        }
    }

    async fn settle(&mut self, pace: &mut Pace) -> Result<(), LoadError> {
        self.backlog.limit(&self.gpu, pace).await;
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_device_gets_work_in_small_parts() {
        let over = |is_shared, bytes, is_busy| Backlog { is_shared, bytes }.is_over(is_busy);
        assert!(over(true, BUSY_BYTES_MAX, true) && !over(true, BUSY_BYTES_MAX, false));
        assert!(over(true, QUIET_BYTES_MAX, false) && !over(true, BUSY_BYTES_MAX - 1, true));
        assert!(!over(false, QUIET_BYTES_MAX, true));
    }
}
