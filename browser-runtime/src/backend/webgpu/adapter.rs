//! Information about an adapter.

use flotilla_protocol::AdapterInfo;

/// Asks for an adapter.
///
/// # Errors
/// The browser's message of refusal.
pub(super) async fn request() -> Result<wgpu::Adapter, String> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::BROWSER_WEBGPU | wgpu::Backends::VULKAN;
    let instance = wgpu::Instance::new(descriptor);
    let options = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    instance.request_adapter(&options).await.map_err(|error| error.to_string())
}

/// The adapter's names, features and limits; empty where it reports none.
pub(super) async fn describe(adapter: &wgpu::Adapter) -> AdapterInfo {
    let features =
        [(wgpu::Features::SHADER_F16, "shader-f16"), (wgpu::Features::SUBGROUP, "subgroups")]
            .into_iter()
            .filter(|(feature, _)| adapter.features().contains(*feature))
            .map(|(_, name)| name.to_owned())
            .collect();
    let binding_bytes_max = adapter.limits().max_storage_buffer_binding_size;
    AdapterInfo { features, binding_bytes_max, ..names(adapter).await }
}

#[cfg(not(target_arch = "wasm32"))]
async fn names(adapter: &wgpu::Adapter) -> AdapterInfo {
    let info = adapter.get_info();
    AdapterInfo { device: info.name, description: info.driver_info, ..AdapterInfo::default() }
}

/// wgpu passes only the description on, so the page requests the same adapter from its browser once
/// more.
#[cfg(target_arch = "wasm32")]
async fn names(adapter: &wgpu::Adapter) -> AdapterInfo {
    use js_sys::{Function, Object, Promise, Reflect};
    use wasm_bindgen::{JsCast, JsValue};

    let known = AdapterInfo { description: adapter.get_info().name, ..AdapterInfo::default() };
    let get = |object: &JsValue, name: &str| {
        Reflect::get(object, &name.into()).unwrap_or(JsValue::UNDEFINED)
    };
    let gpu = get(&get(&js_sys::global(), "navigator"), "gpu");
    let Some(request) = get(&gpu, "requestAdapter").dyn_ref::<Function>().cloned() else {
        return known;
    };
    let options = Object::new();
    if Reflect::set(&options, &"powerPreference".into(), &"high-performance".into()).is_err() {
        return known;
    }
    let Ok(Ok(promise)) = request.call1(&gpu, &options).map(JsCast::dyn_into::<Promise>) else {
        return known;
    };
    let Ok(adapter) = wasm_bindgen_futures::JsFuture::from(promise).await else { return known };
    let info = get(&adapter, "info");
    let text = |name: &str| get(&info, name).as_string().unwrap_or_default();
    AdapterInfo {
        vendor: text("vendor"),
        architecture: text("architecture"),
        device: text("device"),
        description: text("description"),
        ..known
    }
}
