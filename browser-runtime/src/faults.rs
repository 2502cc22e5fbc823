//! Faults that are injected into a peer, so that their detection can be tested.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
};

use flotilla_tensor::{DType, Tensor};

#[cfg(target_arch = "wasm32")]
use crate::backend::webnn::Context;
use crate::{backend::webgpu::Gpu, platform};

/// The injected faults of a peer. Copies share the same switches; a peer without faults is not slowed down by it.
#[derive(Clone, Default)]
pub struct Faults(Rc<State>);

#[derive(Default)]
struct State {
    /// The runtime's current device.
    gpu: RefCell<Weak<Gpu>>,
    /// The runtime's current contexts.
    #[cfg(target_arch = "wasm32")]
    contexts: RefCell<Vec<Weak<Context>>>,
    /// By how much a run is slowed down: the factor minus one.
    slowdown: Cell<f64>,
    answers_wrongly: Cell<bool>,
}

impl Faults {
    /// Destroys the runtime's current device and contexts as a driver's crash would: they are not marked as closing.
    /// Returns whether there was one.
    pub fn lose_device(&self) -> bool {
        let gpu = self.0.gpu.borrow().upgrade().filter(|gpu| gpu.lost().is_none());
        if let Some(gpu) = &gpu {
            gpu.destroy();
        }
        #[cfg(target_arch = "wasm32")]
        let contexts = self.lose_contexts();
        #[cfg(not(target_arch = "wasm32"))]
        let contexts = false;
        gpu.is_some() || contexts
    }

    #[cfg(target_arch = "wasm32")]
    fn lose_contexts(&self) -> bool {
        let contexts = self.0.contexts.borrow();
        let present: Vec<Rc<Context>> = contexts
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|context| context.lost().is_none())
            .collect();
        present.iter().for_each(|context| context.destroy());
        !present.is_empty()
    }

    /// Called by the runtime whenever it has a new context.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn has_context(&self, context: &Rc<Context>) {
        let mut contexts = self.0.contexts.borrow_mut();
        contexts.retain(|context| context.upgrade().is_some());
        contexts.push(Rc::downgrade(context));
    }

    /// Slows runs down by `factor`; 1 ends that.
    pub fn slow_down(&self, factor: f64) {
        self.0.slowdown.set((factor - 1.0).max(0.0));
    }

    /// Makes every number of later results wrong, but finite and in its place.
    pub fn answer_wrongly(&self, wrongly: bool) {
        self.0.answers_wrongly.set(wrongly);
    }

    /// Called by the runtime whenever it has a new device.
    pub(crate) fn has_device(&self, gpu: &Rc<Gpu>) {
        *self.0.gpu.borrow_mut() = Rc::downgrade(gpu);
    }

    /// Waits for the additional time of a run that took `run_us`.
    pub(crate) async fn delay(&self, run_us: u64) {
        let wait_ms = run_us as f64 / 1e3 * self.0.slowdown.get();
        if wait_ms >= 1.0 {
            platform::pause(wait_ms.min(f64::from(i32::MAX)) as i32).await;
        }
    }

    /// Makes results wrong, if that fault is on.
    pub(crate) fn spoil(&self, outputs: &mut [Tensor]) {
        if !self.0.answers_wrongly.get() {
            return;
        }
        for output in outputs {
            match output.dtype {
                DType::F32 => {
                    for bytes in output.bytes.as_chunks_mut::<4>().0 {
                        *bytes = (f32::from_le_bytes(*bytes) + 1.0).to_le_bytes();
                    }
                }
                DType::F64 => {
                    for bytes in output.bytes.as_chunks_mut::<8>().0 {
                        *bytes = (f64::from_le_bytes(*bytes) + 1.0).to_le_bytes();
                    }
                }
                // The sign and exponent of a half are unchanged.
                DType::F16
                | DType::BF16
                | DType::I64
                | DType::I32
                | DType::I16
                | DType::I8
                | DType::U64
                | DType::U32
                | DType::U16
                | DType::U8
                | DType::Bool => {
                    let width = output.dtype.wire_bytes();
                    output.bytes.iter_mut().step_by(width).for_each(|low| *low ^= 1);
                }
            }
        }
    }
}
