//! Copies between strided views, which implement all operators that only move elements.

use super::{Launch, Memory, Shader};
use crate::call::strides;

/// Elements of `shape` are read at `from + sum(index * from_strides)` and written likewise.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// How many elements are copied along each dimension.
    pub shape: Vec<usize>,
    /// Where the first one is read.
    pub from: usize,
    /// Distance between neighbours where they are read.
    pub from_strides: Vec<i64>,
    /// Where the first one is written.
    pub to: usize,
    /// Distance between neighbours where they are written.
    pub to_strides: Vec<i64>,
}

impl View {
    /// Writes row-major into a whole output of this shape.
    pub fn gathering(shape: &[usize], from: usize, from_strides: Vec<i64>) -> View {
        View {
            shape: shape.to_vec(),
            from,
            from_strides,
            to: 0,
            to_strides: signed(&strides(shape)),
        }
    }

    /// The same view without dimensions of 1 and with contiguous neighbouring dimensions joined.
    fn simplified(&self) -> View {
        let mut simple = View {
            shape: Vec::new(),
            from_strides: Vec::new(),
            to_strides: Vec::new(),
            ..self.clone()
        };
        for axis in 0..self.shape.len() {
            let (size, from, to) =
                (self.shape[axis], self.from_strides[axis], self.to_strides[axis]);
            if size == 1 {
                continue;
            }
            let last = simple.shape.len().wrapping_sub(1);
            let joins = !simple.shape.is_empty()
                && simple.from_strides[last] == from * size as i64
                && simple.to_strides[last] == to * size as i64;
            if joins {
                simple.shape[last] *= size;
                (simple.from_strides[last], simple.to_strides[last]) = (from, to);
            } else {
                simple.shape.push(size);
                simple.from_strides.push(from);
                simple.to_strides.push(to);
            }
        }
        simple
    }

    /// The dispatch of `shader` that copies input `input` of a node.
    pub fn launch(&self, input: usize) -> Launch {
        let view = self.simplified();
        let total = view.shape.iter().product::<usize>();
        let mut params =
            vec![total as u32, view.shape.len() as u32, view.from as u32, view.to as u32];
        params.extend((0..8).map(|axis| view.shape.get(axis).map_or(1, |&size| size as u32)));
        for strides in [&view.from_strides, &view.to_strides] {
            params.extend(
                (0..8).map(|axis| strides.get(axis).map_or(0, |&stride| stride as i32 as u32)),
            );
        }
        Launch::new(0, 0, params, total, view.shape.len()).reading([Memory::Input(input)])
    }

    /// Copies on the cpu.
    pub fn copy(&self, from: &[u32], to: &mut [u32]) {
        let view = self.simplified();
        if !view.shape.contains(&0) {
            view.copy_axis(0, from, view.from as i64, to, view.to as i64);
        }
    }

    fn copy_axis(
        &self,
        axis: usize,
        from: &[u32],
        mut from_at: i64,
        to: &mut [u32],
        mut to_at: i64,
    ) {
        let Some(&size) = self.shape.get(axis) else {
            to[to_at as usize] = from[from_at as usize];
            return;
        };
        let (from_stride, to_stride) = (self.from_strides[axis], self.to_strides[axis]);
        if axis + 1 < self.shape.len() {
            for _ in 0..size {
                self.copy_axis(axis + 1, from, from_at, to, to_at);
                from_at += from_stride;
                to_at += to_stride;
            }
        } else if from_stride == 1 && to_stride == 1 {
            to[to_at as usize..][..size].copy_from_slice(&from[from_at as usize..][..size]);
        } else if from_stride == 0 && to_stride == 1 {
            to[to_at as usize..][..size].fill(from[from_at as usize]);
        } else {
            for _ in 0..size {
                to[to_at as usize] = from[from_at as usize];
                from_at += from_stride;
                to_at += to_stride;
            }
        }
    }
}

/// The one shader of all views; it moves 32-bit words of any type.
pub(crate) fn shader() -> Shader {
    Shader::new("copy", &[("input", "u32")], "u32", include_str!("strided.wgsl"))
}

pub(crate) fn signed(strides: &[usize]) -> Vec<i64> {
    strides.iter().map(|&stride| stride as i64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined() {
        let view = View::gathering(&[2, 1, 3, 4], 0, vec![12, 12, 4, 1]).simplified();
        assert_eq!((view.shape, view.from_strides), (vec![24], vec![1]));
        let view = View::gathering(&[2, 3, 4], 0, vec![1, 8, 2]).simplified();
        assert_eq!((view.shape, view.from_strides), (vec![2, 12], vec![1, 2]));
    }
}
