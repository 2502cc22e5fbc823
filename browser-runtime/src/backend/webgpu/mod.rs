//! The webgpu backend, through wgpu: WebGPU in a page, Vulkan natively.

mod adapter;
#[cfg(target_arch = "wasm32")]
mod background;
mod gpu;
mod host;
mod loading;
mod model;
mod plan;
mod pool;

pub(crate) use gpu::Gpu;
pub(crate) use loading::Loading;
pub(crate) use model::GpuModel;

/// What the backend would run on, or the browser's message of refusal.
pub(crate) async fn inspect() -> Result<flotilla_protocol::AdapterInfo, String> {
    Ok(adapter::describe(&adapter::request().await?).await)
}
