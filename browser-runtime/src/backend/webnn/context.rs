//! A context of the browser, and its loss.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use flotilla_protocol::{AdapterInfo, Backend, Device};
use flotilla_webnn::{MlContext, MlContextOptions, ml};
use futures_channel::mpsc;
use js_sys::Reflect;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};

use super::limits::Limits;
use crate::backend::DeviceLoss;

/// Most turns of the page's event loop between a failure and the loss that explains it.
const LOSS_TURNS_MAX: u32 = 50;

/// A context of the browser.
pub(crate) struct Context {
    pub(crate) ml: MlContext,
    pub(crate) limits: Limits,
    pub(crate) info: AdapterInfo,
    condition: Rc<Condition>,
}

#[derive(Default)]
struct Condition {
    /// Set before this runtime destroys the context on purpose, so that the loss that follows is not
    /// reported.
    closing: Cell<bool>,
    lost: RefCell<Option<String>>,
}

/// What the backend would run on, or the browser's message of refusal.
pub(crate) async fn inspect(device: Option<Device>) -> Result<AdapterInfo, String> {
    let context = create(device).await?;
    let info = describe(device, &context);
    context.destroy();
    Ok(info)
}

async fn create(device: Option<Device>) -> Result<MlContext, String> {
    let ml = ml().ok_or("this browser has no navigator.ml")?;
    let options = MlContextOptions::new();
    if let Some(device) = device {
        options.set_device_type(device.name());
    }
    let promise = ml.create_context(&options).map_err(words)?;
    Ok(JsFuture::from(promise).await.map_err(words)?.unchecked_into())
}

/// The device is the requested one: a browser may compute elsewhere without reporting it.
fn describe(device: Option<Device>, context: &MlContext) -> AdapterInfo {
    let device = device.map_or("any device".to_owned(), |device| device.to_string());
    let layout = Reflect::get(&context.op_support_limits(), &"preferredInputLayout".into());
    let layout = layout.ok().and_then(|layout| layout.as_string());
    let accelerated = match context.accelerated() {
        Some(true) => Some("accelerated".to_owned()),
        Some(false) => Some("not accelerated".to_owned()),
        None => None,
    };
    AdapterInfo {
        description: format!("{device} requested"),
        features: layout.into_iter().chain(accelerated).collect(),
        ..AdapterInfo::default()
    }
}

impl Context {
    pub(crate) async fn new(
        device: Option<Device>,
        generation: u32,
        losses: mpsc::Sender<DeviceLoss>,
    ) -> Result<Context, String> {
        let ml = create(device).await?;
        let condition = Rc::new(Condition::default());
        let (seen, lost) = (condition.clone(), ml.lost());
        spawn_local(async move {
            let reason = match JsFuture::from(lost).await {
                Ok(info) => Reflect::get(&info, &"message".into())
                    .ok()
                    .and_then(|message| message.as_string())
                    .unwrap_or_default(),
                Err(error) => words(error),
            };
            if !seen.closing.get() && seen.lost.borrow().is_none() {
                let loss =
                    DeviceLoss { backend: Backend::WebNn, generation, reason: reason.clone() };
                // A full queue means that an earlier loss was not read yet; both have the same
                // consequence.
                let _ = losses.clone().try_send(loss);
            }
            seen.lost.borrow_mut().get_or_insert(reason);
        });
        let limits = Limits::read(&ml.op_support_limits());
        let info = describe(device, &ml);
        Ok(Context { ml, limits, info, condition })
    }

    /// The browser's message, once the context is lost.
    pub(crate) fn lost(&self) -> Option<String> {
        self.condition.lost.borrow().clone()
    }

    /// The loss that explains a failure; it may be reported after the failure.
    pub(crate) async fn await_loss(&self) -> Option<String> {
        for _ in 0..LOSS_TURNS_MAX {
            if let Some(reason) = self.lost() {
                return Some(reason);
            }
            crate::platform::pause(2).await;
        }
        None
    }

    /// Loses the context as a crash would: it is not marked as closing.
    pub(crate) fn destroy(&self) {
        self.ml.destroy();
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.condition.closing.set(true);
        self.ml.destroy();
    }
}

/// The browser's message of an exception.
pub(super) fn words(error: JsValue) -> String {
    error.as_string().unwrap_or_else(|| String::from(js_sys::Object::from(error).to_string()))
}
