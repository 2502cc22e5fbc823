//! The positions that index tensors name: of single elements, and of slices named by tuples of indices.

use super::{Launch, Operand};
use crate::call::strides;

/// Positions in a tensor that an index tensor names, one per moved element.
pub(super) trait Places {
    /// How many elements are moved.
    fn total(&self) -> usize;

    /// Contents of the shader's `Params`.
    fn params(&self) -> Vec<u32>;

    /// Iterations of the shader's `place_of`.
    fn iterations(&self) -> usize;

    /// The position of the element that is moved at `flat`.
    ///
    /// # Errors
    /// An index out of range.
    fn at(&self, flat: usize, indices: &[i32]) -> Result<usize, String>;
}

/// One invocation per element that is gathered from input 0 by the indices in input 1.
pub(super) fn gather_launch(places: &impl Places) -> Launch {
    Launch::new(0, 2, places.params(), places.total(), places.iterations())
}

/// Gathers elements of operand 0 by the indices in operand 1.
pub(super) fn gather(
    places: &impl Places,
    operands: &[Operand<'_>],
    output: &mut [u32],
) -> Result<(), String> {
    let (data, indices) = (operands[0].words(), operands[1].i32());
    for (flat, value) in output.iter_mut().enumerate() {
        *value = data[places.at(flat, indices)?];
    }
    Ok(())
}

/// An index counted from the start.
fn from_start(index: i32, size: usize) -> Result<usize, String> {
    let at = if index < 0 { i64::from(index) + size as i64 } else { i64::from(index) };
    usize::try_from(at)
        .ok()
        .filter(|&at| at < size)
        .ok_or_else(|| format!("index {index} is outside of a dimension of {size}"))
}

/// `array<vec4<u32>, 2>`.
fn lanes(numbers: &[usize]) -> impl Iterator<Item = u32> {
    (0..8).map(|axis| numbers.get(axis).map_or(0, |&number| number as u32))
}

/// Every element keeps its position except in one dimension, where the index tensor gives it.
pub(super) struct ElementPlaces {
    shape: Vec<usize>,
    /// Strides of the indexed tensor; 0 for the indexed dimension.
    strides: Vec<usize>,
    size: usize,
    stride: usize,
}

/// Declares `Params` and `place_of` for [`ElementPlaces`].
pub(super) const ELEMENT_PLACES: &str = include_str!("element_places.wgsl");

impl ElementPlaces {
    pub(super) fn new(
        data: &[usize],
        indices: &[usize],
        axis: u32,
    ) -> Result<ElementPlaces, String> {
        let axis = axis as usize;
        let fits = data.len() == indices.len()
            && (0..data.len()).all(|other| other == axis || indices[other] <= data[other]);
        if !fits || axis >= data.len() {
            return Err(format!("indices of shape {indices:?} do not fit into {data:?}"));
        }
        let mut strides = strides(data);
        let stride = std::mem::take(&mut strides[axis]);
        Ok(ElementPlaces { shape: indices.to_vec(), strides, size: data[axis], stride })
    }
}

impl Places for ElementPlaces {
    fn total(&self) -> usize {
        self.shape.iter().product()
    }

    fn params(&self) -> Vec<u32> {
        let mut params = [self.total(), self.shape.len(), self.size, self.stride]
            .map(|number| number as u32)
            .to_vec();
        params.extend(lanes(&self.shape));
        params.extend(lanes(&self.strides));
        params
    }

    fn iterations(&self) -> usize {
        self.shape.len()
    }

    fn at(&self, flat: usize, indices: &[i32]) -> Result<usize, String> {
        let (mut place, mut rest) = (from_start(indices[flat], self.size)? * self.stride, flat);
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            place += rest % size * stride;
            rest /= size;
        }
        Ok(place)
    }
}

/// Slices, each named by a tuple of indices into the leading dimensions that follow the batch dimensions.
pub(super) struct TuplePlaces {
    picked: usize,
    picked_per_batch: usize,
    batch_stride: usize,
    inner: usize,
    sizes: Vec<usize>,
    strides: Vec<usize>,
}

/// Declares `Params` and `place_of` for [`TuplePlaces`].
pub(super) const TUPLE_PLACES: &str = include_str!("tuple_places.wgsl");

impl TuplePlaces {
    pub(super) fn new(
        data: &[usize],
        indices: &[usize],
        batch_dims: u32,
    ) -> Result<TuplePlaces, String> {
        let refused = || format!("indices of shape {indices:?} do not fit {data:?}");
        let batch_dims = batch_dims as usize;
        let (&depth, picks) = indices.split_last().ok_or_else(refused)?;
        let named = data.get(batch_dims..batch_dims + depth).ok_or_else(refused)?;
        if picks.get(..batch_dims) != data.get(..batch_dims) {
            return Err(refused());
        }
        let all = strides(data);
        Ok(TuplePlaces {
            picked: picks.iter().product(),
            picked_per_batch: picks[batch_dims..].iter().product(),
            batch_stride: data[batch_dims..].iter().product(),
            inner: data[batch_dims + depth..].iter().product(),
            sizes: named.to_vec(),
            strides: all[batch_dims..batch_dims + depth].to_vec(),
        })
    }

    /// The shape of the moved elements.
    pub(super) fn moved(data: &[usize], indices: &[usize], batch_dims: u32) -> Vec<usize> {
        let (depth, picks) =
            indices.split_last().map_or((0, &[][..]), |(&depth, picks)| (depth, picks));
        let slice = data.get(batch_dims as usize + depth..).unwrap_or_default();
        [picks, slice].concat()
    }
}

impl Places for TuplePlaces {
    fn total(&self) -> usize {
        self.picked * self.inner
    }

    fn params(&self) -> Vec<u32> {
        let depth = self.sizes.len();
        let mut params = [
            self.total(),
            self.inner,
            self.picked_per_batch.max(1),
            self.batch_stride,
            depth,
            0,
            0,
            0,
        ]
        .map(|number| number as u32)
        .to_vec();
        params.extend(lanes(&self.sizes));
        params.extend(lanes(&self.strides));
        params
    }

    fn iterations(&self) -> usize {
        self.sizes.len()
    }

    fn at(&self, flat: usize, indices: &[i32]) -> Result<usize, String> {
        let (pick, depth) = (flat / self.inner, self.sizes.len());
        let mut place = pick / self.picked_per_batch * self.batch_stride + flat % self.inner;
        let tuple = &indices[pick * depth..][..depth];
        for ((&index, &size), &stride) in tuple.iter().zip(&self.sizes).zip(&self.strides) {
            place += from_start(index, size)? * stride;
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_count_from_either_end() {
        assert_eq!(from_start(-1, 4), Ok(3));
        assert_eq!(from_start(0, 4), Ok(0));
        assert!(from_start(4, 4).is_err() && from_start(-5, 4).is_err());
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        assert!(ElementPlaces::new(&[2, 3], &[3, 3], 1).is_err());
        assert!(ElementPlaces::new(&[2, 3], &[2, 9], 1).is_ok());
        assert!(TuplePlaces::new(&[2, 3], &[4, 3], 0).is_err());
        assert!(TuplePlaces::new(&[2, 3], &[3, 1], 1).is_err());
        assert!(TuplePlaces::new(&[2, 3], &[2, 1], 1).is_ok());
    }
}
