//! Compiles pipelines beside the device's other work.
//!
//! `createComputePipeline` holds up the browser's GPU process until the driver has compiled, and with it every run that is
//! submitted meanwhile. `createComputePipelineAsync` need not, and wgpu does not offer it. So the browser is asked for the
//! pipeline directly, with the description that wgpu makes, and wgpu then gets what the browser has made.

use std::{cell::RefCell, rc::Rc};

use js_sys::{Function, Object, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};

/// The method that wgpu calls.
const CREATE: &str = "createComputePipeline";

/// The method that compiles in the background.
const CREATE_ASYNC: &str = "createComputePipelineAsync";

/// The pipeline that `create` makes, compiled in the background.
///
/// # Errors
/// The browser's message of refusal.
pub(super) async fn compiled(
    device: &wgpu::Device,
    create: impl Fn() -> wgpu::ComputePipeline,
) -> Result<wgpu::ComputePipeline, String> {
    compiled_by(device, &create).await.map_err(|error| {
        let text = error.as_string();
        text.unwrap_or_else(|| String::from(js_sys::Object::from(error).to_string()))
    })
}

async fn compiled_by(
    device: &wgpu::Device,
    create: &impl Fn() -> wgpu::ComputePipeline,
) -> Result<wgpu::ComputePipeline, JsValue> {
    let Some(device) = device.as_webgpu() else { return Ok(create()) };
    let device: &JsValue = device.as_ref();
    let described = Rc::new(RefCell::new(JsValue::UNDEFINED));
    let taken = described.clone();
    // wgpu does not look at what it gets, and this pipeline is not used.
    let describe = move |descriptor: JsValue| {
        taken.replace(descriptor.clone());
        descriptor
    };
    drop(with_create(device, describe, create)?);
    let descriptor = described.replace(JsValue::UNDEFINED);
    let start: Function = Reflect::get(device, &CREATE_ASYNC.into())?.dyn_into()?;
    let promise: Promise = start.call1(device, &descriptor)?.dyn_into()?;
    let pipeline: JsValue = wasm_bindgen_futures::JsFuture::from(promise).await?;
    with_create(device, move |_: JsValue| pipeline.clone(), create)
}

/// Calls `create` while `method` is in the place of the device's own method.
fn with_create(
    device: &JsValue,
    method: impl FnMut(JsValue) -> JsValue + 'static,
    create: impl Fn() -> wgpu::ComputePipeline,
) -> Result<wgpu::ComputePipeline, JsValue> {
    let method = Closure::<dyn FnMut(JsValue) -> JsValue>::new(method);
    // A property of the object hides the method of its prototype.
    Reflect::set(device, &CREATE.into(), method.as_ref())?;
    let pipeline = create();
    Reflect::delete_property(device.unchecked_ref::<Object>(), &CREATE.into())?;
    Ok(pipeline)
}
