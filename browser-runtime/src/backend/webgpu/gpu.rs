//! The device, its pipelines and its errors.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use flotilla_protocol::{AdapterInfo, Backend, LoadError, RunError};
use futures_channel::{mpsc, oneshot};

use super::adapter;
use crate::backend::DeviceLoss;
use flotilla_kernels::{Shader, WORKGROUP};

/// Most turns of the page's event loop between the failure of a map and the loss that explains it.
#[cfg(target_arch = "wasm32")]
const LOSS_TURNS_MAX: u32 = 50;

/// State that callbacks of the device set.
#[derive(Debug, Default)]
struct Condition {
    /// Set before this runtime destroys the device on purpose, so that the loss that follows is not reported.
    closing: bool,
    lost: Option<String>,
    /// An error that no scope caught.
    uncaptured: Option<GpuError>,
}

/// An error of the device, by kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GpuError {
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    #[error("validation failed: {0}")]
    Validation(String),
    #[error("internal error: {0}")]
    Internal(String),
    #[error("device was lost: {0}")]
    Lost(String),
}

impl GpuError {
    pub(crate) fn into_load(self) -> LoadError {
        match self {
            GpuError::OutOfMemory(reason) => LoadError::OutOfMemory { reason },
            GpuError::Lost(reason) => LoadError::DeviceLost { reason },
            GpuError::Validation(reason) | GpuError::Internal(reason) => {
                LoadError::Program { reason }
            }
        }
    }

    pub(crate) fn into_run(self, node: &str) -> RunError {
        match self {
            GpuError::OutOfMemory(reason) => RunError::OutOfMemory { reason },
            GpuError::Lost(reason) => RunError::DeviceLost { reason },
            GpuError::Validation(reason) | GpuError::Internal(reason) => {
                RunError::Backend { node: node.to_owned(), reason }
            }
        }
    }
}

impl From<wgpu::Error> for GpuError {
    fn from(error: wgpu::Error) -> GpuError {
        match error {
            wgpu::Error::OutOfMemory { source } => GpuError::OutOfMemory(source.to_string()),
            wgpu::Error::Validation { description, .. } => GpuError::Validation(description),
            wgpu::Error::Internal { description, .. } => GpuError::Internal(description),
        }
    }
}

/// A compiled shader.
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    reads: usize,
    warm: Cell<bool>,
}

/// An adapter's device with its queue and pipelines.
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) info: AdapterInfo,
    pub(crate) limits: wgpu::Limits,
    pub(crate) generation: u32,
    condition: Arc<Mutex<Condition>>,
    pipelines: RefCell<HashMap<Shader, Rc<Pipeline>>>,
    layouts: RefCell<HashMap<usize, wgpu::BindGroupLayout>>,
    created: Cell<u32>,
    /// Firefox checks a pending map only every 100 ms, unless something is submitted.
    #[cfg_attr(
        not(target_arch = "wasm32"),
        expect(dead_code, reason = "native code polls the device itself")
    )]
    needs_nudging: bool,
}

impl Gpu {
    /// A device with all that its adapter allows.
    pub(crate) async fn new(
        generation: u32,
        losses: mpsc::Sender<DeviceLoss>,
    ) -> Result<Gpu, String> {
        let adapter = adapter::request().await?;
        let limits = adapter.limits();
        let descriptor =
            wgpu::DeviceDescriptor { required_limits: limits.clone(), ..Default::default() };
        let (device, queue) =
            adapter.request_device(&descriptor).await.map_err(|error| error.to_string())?;
        let condition = Arc::new(Mutex::new(Condition::default()));
        let seen = condition.clone();
        device.set_device_lost_callback(move |reason, message| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let reason = if message.is_empty() {
                format!("{reason:?}")
            } else {
                format!("{reason:?}: {message}")
            };
            if !seen.closing && seen.lost.is_none() {
                // A full queue means that an earlier loss was not read yet; both have the same consequence.
                let backend = Backend::WebGpu;
                let _ = losses.clone().try_send(DeviceLoss {
                    backend,
                    generation,
                    reason: reason.clone(),
                });
            }
            seen.lost.get_or_insert(reason);
        });
        let seen = condition.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .uncaptured
                .get_or_insert(error.into());
        }));
        #[cfg(target_arch = "wasm32")]
        let needs_nudging = crate::platform::user_agent().contains("Firefox");
        #[cfg(not(target_arch = "wasm32"))]
        let needs_nudging = false;
        Ok(Gpu {
            device,
            queue,
            info: adapter::describe(&adapter).await,
            limits,
            generation,
            condition,
            pipelines: RefCell::default(),
            layouts: RefCell::default(),
            created: Cell::new(0),
            needs_nudging,
        })
    }

    /// Why the device is lost, once it is.
    pub(crate) fn lost(&self) -> Option<String> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).lost.clone()
    }

    /// Destroys the device without marking it as closing, so that it counts as lost.
    pub(crate) fn destroy(&self) {
        self.device.destroy();
        // A browser reports the loss itself; native callbacks are called here.
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(error) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
            self.condition
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .uncaptured
                .get_or_insert(GpuError::Internal(error.to_string()));
        }
    }

    /// Pipelines made so far.
    pub(crate) fn created(&self) -> u32 {
        self.created.get()
    }

    /// Starts to catch errors; [`Scopes::end`] returns what was caught.
    pub(crate) fn scopes(&self) -> Scopes {
        let push = |filter| self.device.push_error_scope(filter);
        Scopes {
            internal: push(wgpu::ErrorFilter::Internal),
            validation: push(wgpu::ErrorFilter::Validation),
            memory: push(wgpu::ErrorFilter::OutOfMemory),
        }
    }

    /// The pipeline of a shader, compiled if it is new.
    pub(crate) fn pipeline(&self, shader: &Shader) -> Rc<Pipeline> {
        if let Some(pipeline) = self.known(shader) {
            return pipeline;
        }
        let layout = self.layout(shader.reads);
        let pipeline = self.describe(shader, &layout)();
        self.keep(shader, layout, pipeline)
    }

    /// The pipeline of a shader, after it has run once. If it is new, it is compiled without holding up the device where the
    /// browser can do so.
    pub(crate) async fn warm_pipeline(&self, shader: &Shader) -> Result<Rc<Pipeline>, GpuError> {
        #[cfg(target_arch = "wasm32")]
        if self.known(shader).is_none() {
            let layout = self.layout(shader.reads);
            let pipeline =
                super::background::compiled(&self.device, self.describe(shader, &layout));
            let pipeline = pipeline.await.map_err(GpuError::Validation)?;
            self.keep(shader, layout, pipeline);
        }
        let pipeline = self.pipeline(shader);
        if !pipeline.warm.get() {
            self.warm().await?;
        }
        Ok(pipeline)
    }

    fn known(&self, shader: &Shader) -> Option<Rc<Pipeline>> {
        self.pipelines.borrow().get(shader).cloned()
    }

    fn keep(
        &self,
        shader: &Shader,
        layout: wgpu::BindGroupLayout,
        pipeline: wgpu::ComputePipeline,
    ) -> Rc<Pipeline> {
        self.created.set(self.created.get() + 1);
        let pipeline =
            Rc::new(Pipeline { pipeline, layout, reads: shader.reads, warm: Cell::new(false) });
        self.pipelines.borrow_mut().insert(shader.clone(), pipeline.clone());
        pipeline
    }

    /// What creates the pipeline of a shader, as often as it is called.
    fn describe(
        &self,
        shader: &Shader,
        layout: &wgpu::BindGroupLayout,
    ) -> impl Fn() -> wgpu::ComputePipeline + use<> {
        let label = shader.name.clone();
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(shader.wgsl.as_str().into()),
        });
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(layout)],
            ..Default::default()
        });
        let device = self.device.clone();
        move || {
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: Some(&layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // Every buffer is written completely before it is read, so workgroup memory needs no zeros either.
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            })
        }
    }

    fn layout(&self, reads: usize) -> wgpu::BindGroupLayout {
        let mut layouts = self.layouts.borrow_mut();
        let make = || {
            let entry = |binding: usize, ty| wgpu::BindGroupLayoutEntry {
                binding: binding as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty,
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            };
            let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
            for read in 0..reads {
                entries.push(entry(read + 1, wgpu::BufferBindingType::Storage { read_only: true }));
            }
            entries.push(entry(reads + 1, wgpu::BufferBindingType::Storage { read_only: false }));
            let descriptor = wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries };
            self.device.create_bind_group_layout(&descriptor)
        };
        layouts.entry(reads).or_insert_with(make).clone()
    }

    /// Dispatches every pipeline that has not run yet once, with no work: a browser's driver may compile only then. Waits
    /// until the device has answered.
    pub(crate) async fn warm(&self) -> Result<(), GpuError> {
        let buffer = |usage| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("warm"),
                size: 1024,
                usage,
                mapped_at_creation: false,
            })
        };
        let params = buffer(wgpu::BufferUsages::UNIFORM);
        let output = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
        let input = buffer(wgpu::BufferUsages::STORAGE);
        let answer = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for pipeline in self.pipelines.borrow().values().filter(|pipeline| !pipeline.warm.get())
            {
                let buffers: Vec<&wgpu::Buffer> = [&params]
                    .into_iter()
                    .chain((0..pipeline.reads).map(|_| &input))
                    .chain([&output])
                    .collect();
                let entries: Vec<wgpu::BindGroupEntry<'_>> = buffers
                    .iter()
                    .enumerate()
                    .map(|(binding, buffer)| wgpu::BindGroupEntry {
                        binding: binding as u32,
                        resource: buffer.as_entire_binding(),
                    })
                    .collect();
                let descriptor = wgpu::BindGroupDescriptor {
                    label: Some("warm"),
                    layout: &pipeline.layout,
                    entries: &entries,
                };
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, &self.device.create_bind_group(&descriptor), &[]);
                pass.dispatch_workgroups(1, 1, 1);
            }
        }
        encoder.copy_buffer_to_buffer(&output, 0, &answer, 0, 1024);
        self.queue.submit([encoder.finish()]);
        self.map(&answer).await?;
        self.pipelines.borrow().values().for_each(|pipeline| pipeline.warm.set(true));
        Ok(())
    }

    /// Submits what was written and waits until the device has done all that it was given.
    pub(crate) async fn idle(&self) {
        self.queue.submit([]);
        let (sender, receiver) = oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        #[cfg(not(target_arch = "wasm32"))]
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
        #[cfg(target_arch = "wasm32")]
        let receiver = self.nudged(receiver);
        // The loss of the device is noticed by whatever uses it next.
        let _ = receiver.await;
    }

    /// Drops pipelines that were never warm: one of them is invalid.
    pub(crate) fn forget_cold(&self) {
        self.pipelines.borrow_mut().retain(|_, pipeline| pipeline.warm.get());
    }

    /// Maps a buffer for reading.
    pub(crate) async fn map(&self, buffer: &wgpu::Buffer) -> Result<(), GpuError> {
        let (sender, receiver) = oneshot::channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(error) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
            return Err(self.error_or(GpuError::Internal(error.to_string())));
        }
        #[cfg(target_arch = "wasm32")]
        let receiver = self.nudged(receiver);
        match receiver.await {
            Ok(Ok(())) => self.error().map_or(Ok(()), Err),
            Ok(Err(error)) => Err(self.error_or(GpuError::Internal(error.to_string()))),
            Err(_) => {
                Err(self.error_or(GpuError::Internal("the device gave no answer".to_owned())))
            }
        }
    }

    /// Waits for `future` and submits empty work for a browser that needs it, until the device is lost.
    #[cfg(target_arch = "wasm32")]
    async fn nudged<T>(&self, mut future: oneshot::Receiver<T>) -> Result<T, oneshot::Canceled> {
        use futures_util::future::{Either, select};
        while self.needs_nudging {
            if self.lost().is_some() {
                return Err(oneshot::Canceled);
            }
            match select(future, Box::pin(crate::platform::pause(2))).await {
                Either::Left((value, _)) => return value,
                Either::Right((_, rest)) => future = rest,
            }
            self.queue.submit([]);
        }
        future.await
    }

    /// Replaces an error by the loss of the device if that is its cause: buffers that become invalid and maps that fail are
    /// reported before the loss, with messages that do not name the cause. Every error passes through here once, where it
    /// leaves the backend.
    pub(crate) async fn explained(&self, error: GpuError) -> GpuError {
        match error {
            GpuError::Validation(_) | GpuError::Internal(_) => {
                #[cfg(target_arch = "wasm32")]
                self.await_loss().await;
                self.lost().map_or(error, GpuError::Lost)
            }
            GpuError::OutOfMemory(_) | GpuError::Lost(_) => error,
        }
    }

    /// Gives the browser time to report that the device is lost.
    #[cfg(target_arch = "wasm32")]
    async fn await_loss(&self) {
        for _ in 0..LOSS_TURNS_MAX {
            if self.lost().is_some() {
                return;
            }
            crate::platform::pause(2).await;
        }
    }

    /// The error that the device's callbacks have recorded.
    fn error(&self) -> Option<GpuError> {
        let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        condition.lost.clone().map(GpuError::Lost).or_else(|| condition.uncaptured.take())
    }

    pub(crate) fn error_or(&self, other: GpuError) -> GpuError {
        self.error().unwrap_or(other)
    }

    /// The number of workgroups in a dispatch is checked where launches are made; this checks the adapter once.
    pub(crate) fn check_adapter(&self) -> Result<(), String> {
        let limits = &self.limits;
        let needs: [(&str, u32, u32); 3] = [
            (
                "maxComputeInvocationsPerWorkgroup",
                limits.max_compute_invocations_per_workgroup,
                WORKGROUP,
            ),
            (
                "maxComputeWorkgroupsPerDimension",
                limits.max_compute_workgroups_per_dimension,
                65535,
            ),
            ("maxStorageBuffersPerShaderStage", limits.max_storage_buffers_per_shader_stage, 6),
        ];
        match needs.into_iter().find(|(_, got, want)| got < want) {
            Some((name, got, want)) => Err(format!("{name} is {got}, {want} are needed")),
            None => Ok(()),
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).closing = true;
        self.device.destroy();
    }
}

/// Nested error scopes of the three kinds.
pub(crate) struct Scopes {
    memory: wgpu::ErrorScopeGuard,
    validation: wgpu::ErrorScopeGuard,
    internal: wgpu::ErrorScopeGuard,
}

impl Scopes {
    /// Ends the scopes at once; the future gives the first error caught.
    pub(crate) fn end(self) -> impl Future<Output = Result<(), GpuError>> {
        let memory = self.memory.pop();
        let validation = self.validation.pop();
        let internal = self.internal.pop();
        async move {
            // An out-of-memory error leaves invalid objects, which then fail validation.
            let caught = [memory.await, validation.await, internal.await];
            caught.into_iter().flatten().next().map_or(Ok(()), |error| Err(error.into()))
        }
    }
}
