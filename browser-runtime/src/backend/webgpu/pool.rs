//! Buffers for intermediate values, by size class, shared by everything that a placement executes.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

/// Smallest class: more than one element of any shader's array needs.
const CLASS_BYTES_MIN: u64 = 256;

/// Number of a buffer of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BufferId(u64);

impl BufferId {
    /// The id of a constant's buffer, which is in no pool.
    pub(crate) fn of_constant(constant: usize) -> BufferId {
        BufferId(u64::MAX - constant as u64)
    }
}

/// The buffers that are free.
#[derive(Default)]
struct Free {
    /// By class, then by number: of two that fit, the older one is taken, so that equal runs take equal
    /// buffers.
    classes: BTreeMap<u64, BTreeMap<BufferId, wgpu::Buffer>>,
    made: u64,
}

/// Owns the buffers.
#[derive(Clone)]
pub(crate) struct Pool {
    free: Rc<RefCell<Free>>,
    device: wgpu::Device,
    binding_bytes_max: u64,
}

/// A buffer in use, until this is dropped.
pub(crate) struct Lease {
    pub(crate) id: BufferId,
    pub(crate) buffer: wgpu::Buffer,
    free: Rc<RefCell<Free>>,
}

impl Pool {
    pub(crate) fn new(device: &wgpu::Device, binding_bytes_max: u64) -> Pool {
        Pool { free: Rc::default(), device: device.clone(), binding_bytes_max }
    }

    /// A buffer of at least `bytes`.
    pub(crate) fn take(&self, bytes: u64) -> Lease {
        let class = class(bytes).min(self.binding_bytes_max.max(bytes));
        let mut free = self.free.borrow_mut();
        let known = free.classes.get_mut(&class).and_then(BTreeMap::pop_first);
        let (id, buffer) = known.unwrap_or_else(|| {
            free.made += 1;
            let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("value"),
                size: class,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            (BufferId(free.made), buffer)
        });
        Lease { id, buffer, free: self.free.clone() }
    }

    /// These buffers, if all of them are free. Each is given with its size.
    pub(crate) fn take_again(&self, wanted: &[(u64, BufferId)]) -> Option<Vec<Lease>> {
        let mut free = self.free.borrow_mut();
        let is_free = |(class, id): &(u64, BufferId)| {
            free.classes.get(class).is_some_and(|of| of.contains_key(id))
        };
        if !wanted.iter().all(is_free) {
            return None;
        }
        let taken = wanted.iter().filter_map(|(class, id)| {
            let buffer = free.classes.get_mut(class)?.remove(id)?;
            Some(Lease { id: *id, buffer, free: self.free.clone() })
        });
        Some(taken.collect())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut free = self.free.borrow_mut();
        free.classes.entry(self.buffer.size()).or_default().insert(self.id, self.buffer.clone());
    }
}

/// Eight classes between powers of two waste at most an eighth.
fn class(bytes: u64) -> u64 {
    let bytes = bytes.max(CLASS_BYTES_MIN);
    bytes.next_multiple_of((bytes.next_power_of_two() / 16).max(CLASS_BYTES_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_few_and_large_enough() {
        for bytes in [0, 1, 256, 257, 4096, 5000, 196_608, 1_000_000, (1 << 27) - 5] {
            let class = class(bytes);
            assert!(
                class >= bytes && class.is_multiple_of(4) && class <= bytes + bytes / 8 + 256,
                "{bytes} -> {class}"
            );
        }
    }
}
