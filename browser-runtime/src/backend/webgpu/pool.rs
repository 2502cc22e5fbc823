//! Buffers for intermediate values, by size class, shared by all plans of a placement.

use std::collections::BTreeMap;

/// Smallest class: what one element of any shader's array needs, and some.
const CLASS_BYTES_MIN: u64 = 256;

/// Owns the buffers; a plan marks them as taken only while it is being made, since runs never overlap.
#[derive(Default)]
pub(crate) struct Pool {
    classes: BTreeMap<u64, Vec<wgpu::Buffer>>,
}

/// Which buffers the plan in the making uses now.
pub(crate) struct Arena<'a> {
    pool: &'a mut Pool,
    device: &'a wgpu::Device,
    free: BTreeMap<u64, Vec<wgpu::Buffer>>,
    binding_bytes_max: u64,
}

impl Pool {
    /// All buffers are free at first.
    pub(crate) fn arena<'a>(
        &'a mut self,
        device: &'a wgpu::Device,
        binding_bytes_max: u64,
    ) -> Arena<'a> {
        let free = self.classes.clone();
        Arena { pool: self, device, free, binding_bytes_max }
    }
}

impl Arena<'_> {
    /// A buffer of at least `bytes`.
    pub(crate) fn take(&mut self, bytes: u64) -> wgpu::Buffer {
        let class = class(bytes).min(self.binding_bytes_max.max(bytes));
        if let Some(buffer) = self.free.get_mut(&class).and_then(Vec::pop) {
            return buffer;
        }
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("arena"),
            size: class,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.pool.classes.entry(class).or_default().push(buffer.clone());
        buffer
    }

    /// Makes a buffer available to later values.
    pub(crate) fn give(&mut self, buffer: wgpu::Buffer) {
        self.free.entry(buffer.size()).or_default().push(buffer);
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
