//! Operators that move elements without changing them.

use flotilla_program::{
    Combine, Concat, GatherElements, GatherNd, Node, Pad, PadMode, Range, ScatterElements,
    ScatterNd, Sizes, Slice,
};

use super::Lowering;
use crate::backend::webnn::draft::{Id, Type};

impl Lowering<'_> {
    pub(super) fn concat(&mut self, node: &Node, op: &Concat) -> Result<Id, String> {
        let mut operands = Vec::new();
        for &value in &node.inputs {
            // An empty operand adds nothing, and WebNN has no empty tensors.
            if self.shapes.elements(value) > 0 {
                operands.push(self.operand(value)?);
            }
        }
        self.draft.concat(operands, op.axis)
    }

    pub(super) fn slice(&mut self, node: &Node, op: &Slice, want: &[u32]) -> Result<Id, String> {
        let mut x = self.operand(node.inputs[0])?;
        let axis = op.axis as usize;
        let start = self.shapes.eval(&op.start).ok_or("a start without a value")?;
        let mut sizes = self.draft.shape(x).to_vec();
        let (whole, taken) = (i64::from(sizes[axis]), i64::from(want[axis]));
        let first = if op.stride < 0 {
            x = self.draft.reverse(x, op.axis)?;
            whole - 1 - start
        } else {
            start
        };
        let stride = op.stride.unsigned_abs();
        let narrow = |number: i64| {
            u32::try_from(number).map_err(|_| format!("elements from {start} of {whole}"))
        };
        let rank = sizes.len();
        let (mut starts, mut strides) = (vec![0; rank], vec![1; rank]);
        starts[axis] = narrow(first)?;
        sizes[axis] = narrow((taken - 1).saturating_mul(stride as i64).saturating_add(1))?;
        strides[axis] = if taken == 1 { 1 } else { narrow(stride as i64)? };
        self.draft.slice(x, starts, sizes, strides)
    }

    pub(super) fn range(&mut self, op: &Range, want: &[u32]) -> Result<Id, String> {
        let (start, stride) = (self.shapes.eval(&op.start), self.shapes.eval(&op.stride));
        let (start, stride) = start.zip(stride).ok_or("a range without a start or a stride")?;
        let count = i64::from(*want.first().ok_or("a range has one dimension")?);
        let words: Option<Vec<u32>> = (0..count)
            .map(|index| {
                let number = stride.checked_mul(index)?.checked_add(start)?;
                i32::try_from(number).ok().map(|number| number as u32)
            })
            .collect();
        self.draft.data(words.ok_or("a range that leaves 32 bits")?, Type::Int32, want)
    }

    pub(super) fn sizes(&mut self, op: &Sizes, want: &[u32]) -> Result<Id, String> {
        let numbers = op.dims.iter().map(|dim| i32::try_from(self.shapes.eval(dim)?).ok());
        let words: Option<Vec<u32>> =
            numbers.map(|number| number.map(|number| number as u32)).collect();
        self.draft.data(words.ok_or("a size that leaves 32 bits")?, Type::Int32, want)
    }

    pub(super) fn pad(&mut self, node: &Node, op: &Pad, want: &[u32]) -> Result<Id, String> {
        let x = self.operand(node.inputs[0])?;
        if op.mode != PadMode::Constant {
            return self.repeated(x, op, want);
        }
        let mut x = x;
        // First elements are cut away where padding is negative, then the rest is padded.
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (axis, put) in op.before.iter().enumerate() {
            let put = self.shapes.eval(put).ok_or("a padding without a value")?;
            let size = i64::from(self.draft.shape(x)[axis]);
            let behind = i64::from(want[axis]) - size - put;
            let (front, back) = ((-put).max(0), (-behind).max(0));
            let left = size - front - back;
            if left <= 0 {
                return Err("nothing is left to pad".to_owned());
            }
            x = self.draft.slice_axis(x, axis, front as u32, left as u32)?;
            before.push(put.max(0) as u32);
            after.push(behind.max(0) as u32);
        }
        let fill = self.operand(node.inputs[1])?;
        self.surrounded(x, fill, &before, &after)
    }

    /// `x` surrounded by its own elements: each dimension is gathered from the places that the mode reads.
    fn repeated(&mut self, x: Id, op: &Pad, want: &[u32]) -> Result<Id, String> {
        let mut x = x;
        for (axis, before) in op.before.iter().enumerate() {
            let before = self.shapes.eval(before).ok_or("a padding without a value")?;
            let size = i64::from(self.draft.shape(x)[axis]);
            let places = (0..i64::from(want[axis])).map(|place| {
                let place = place - before;
                match op.mode {
                    PadMode::Constant | PadMode::Edge => place.clamp(0, size - 1),
                    PadMode::Wrap => place.rem_euclid(size),
                    PadMode::Reflect => {
                        let period = (2 * (size - 1)).max(1);
                        let place = place.rem_euclid(period);
                        place.min(period - place).min(size - 1)
                    }
                }
            });
            let places: Vec<u32> = places.map(|place| place as u32).collect();
            if places.iter().copied().eq(0..size as u32) {
                continue;
            }
            let places = self.draft.data(places, Type::Int32, &[want[axis]])?;
            x = self.draft.gather(x, places, axis as u32)?;
        }
        Ok(x)
    }

    /// `fill` around `x`, dimension by dimension.
    pub(super) fn surrounded(
        &mut self,
        x: Id,
        fill: Id,
        before: &[u32],
        after: &[u32],
    ) -> Result<Id, String> {
        let mut x = x;
        let fill = self.draft.reshape(fill, &[])?;
        for axis in 0..before.len() {
            let mut shape = self.draft.shape(x).to_vec();
            let mut parts = vec![x];
            for (count, at) in [(before[axis], 0), (after[axis], 1)] {
                if count > 0 {
                    shape[axis] = count;
                    let part = self.draft.expand(fill, &shape)?;
                    parts.insert(if at == 0 { 0 } else { parts.len() }, part);
                }
            }
            x = self.draft.concat(parts, axis as u32)?;
        }
        Ok(x)
    }

    pub(super) fn gather_nd(&mut self, node: &Node, op: &GatherNd) -> Result<Id, String> {
        let operands = self.operands(node)?;
        let (data, indices) = (operands[0], operands[1]);
        if op.batch_dims == 0 {
            return self.draft.gather_nd(data, indices);
        }
        // Batch dimensions become indices, too: their own positions.
        let batch = op.batch_dims as usize;
        let shape = self.draft.shape(indices).to_vec();
        let (_, picked) = shape.split_last().ok_or("indices without dimensions")?;
        let mut columns = Vec::new();
        for axis in 0..batch {
            columns.push(self.positions(picked, axis)?);
        }
        columns.push(indices);
        let indices = self.draft.concat(columns, picked.len() as u32)?;
        self.draft.gather_nd(data, indices)
    }

    /// The position along `axis` of every element of a shape, with a dimension of 1 at the end.
    fn positions(&mut self, shape: &[u32], axis: usize) -> Result<Id, String> {
        let mut line = vec![1; shape.len() + 1];
        line[axis] = shape[axis];
        let positions = self.draft.data((0..shape[axis]).collect(), Type::Int32, &line)?;
        self.draft.expand(positions, &[shape, &[1]].concat())
    }

    /// Indices along one dimension as complete coordinates. Browsers accept computed indices only in this form.
    fn whole_places(&mut self, indices: Id, axis: u32) -> Result<Id, String> {
        let shape = self.draft.shape(indices).to_vec();
        let mut columns = Vec::new();
        for own in 0..shape.len() {
            columns.push(if own == axis as usize {
                self.draft.reshape(indices, &[shape.as_slice(), &[1]].concat())?
            } else {
                self.positions(&shape, own)?
            });
        }
        self.draft.concat(columns, shape.len() as u32)
    }

    pub(super) fn gather_elements(
        &mut self,
        node: &Node,
        op: &GatherElements,
    ) -> Result<Id, String> {
        let operands = self.operands(node)?;
        let places = self.whole_places(operands[1], op.axis)?;
        self.draft.gather_nd(operands[0], places)
    }

    pub(super) fn scatter_elements(
        &mut self,
        node: &Node,
        op: &ScatterElements,
    ) -> Result<Id, String> {
        self.scattered(node, op.combine, |lowering, [data, indices, updates]| {
            let places = lowering.whole_places(indices, op.axis)?;
            lowering.draft.scatter_nd([data, places, updates])
        })
    }

    pub(super) fn scatter_nd(&mut self, node: &Node, op: &ScatterNd) -> Result<Id, String> {
        self.scattered(node, op.combine, |lowering, operands| lowering.draft.scatter_nd(operands))
    }

    fn scattered(
        &mut self,
        node: &Node,
        combine: Combine,
        scatter: impl Fn(&mut Self, [Id; 3]) -> Result<Id, String>,
    ) -> Result<Id, String> {
        if combine != Combine::Replace {
            return Err(format!("WebNN scatters no {combine:?}"));
        }
        let operands = self.operands(node)?;
        let &[mut data, indices, mut updates] = operands.as_slice() else {
            return Err("three operands are needed".to_owned());
        };
        let ty = self.draft.ty(data);
        if ty == Type::Uint8 {
            data = self.draft.cast(data, Type::Int32)?;
            updates = self.draft.cast(updates, Type::Int32)?;
        }
        let scattered = scatter(self, [data, indices, updates])?;
        self.draft.cast(scattered, ty)
    }
}
