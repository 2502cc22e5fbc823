//! What moves elements and changes none.

use flotilla_model::program::{
    Combine, Concat, GatherNd, Node, Pad, PadMode, Range, ScatterElements, ScatterNd, Slice,
};

use super::Lowering;
use crate::backend::webnn::draft::{Id, Type};

impl Lowering<'_> {
    pub(super) fn concat(&mut self, node: &Node, op: &Concat) -> Result<Id, String> {
        let mut operands = Vec::new();
        for &value in &node.inputs {
            // What is empty adds nothing, and WebNN has no tensor for it.
            if self.shapes.elements(value) > 0 {
                operands.push(self.operand(value)?);
            }
        }
        self.draft.concat(operands, op.axis)
    }

    pub(super) fn slice(&mut self, node: &Node, op: &Slice, want: &[u32]) -> Result<Id, String> {
        let mut x = self.operand(node.inputs[0])?;
        let axis = op.axis as usize;
        let start = op.start.eval(&self.shapes.symbols).ok_or("a start without a value")?;
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
        let symbols = &self.shapes.symbols;
        let (start, stride) = (op.start.eval(symbols), op.stride.eval(symbols));
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

    pub(super) fn pad(&mut self, node: &Node, op: &Pad, want: &[u32]) -> Result<Id, String> {
        let mut x = self.operand(node.inputs[0])?;
        let sizes: Vec<i64> = self.draft.shape(x).iter().map(|&size| i64::from(size)).collect();
        // What is taken away goes first; the rest is put around.
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (axis, &put) in op.before.iter().enumerate() {
            let behind = i64::from(want[axis]) - sizes[axis] - put;
            let (cut_front, cut_back) = ((-put).max(0), (-behind).max(0));
            let left = sizes[axis] - cut_front - cut_back;
            if left <= 0 {
                return Err("nothing is left to pad".to_owned());
            }
            // A mirror looks beyond what is taken away.
            if op.mode != PadMode::Constant && cut_front + cut_back > 0 && put.max(behind) > 0 {
                return Err(format!("{:?} padding that also takes away", op.mode));
            }
            x = self.draft.slice_axis(x, axis, cut_front as u32, left as u32)?;
            before.push(put.max(0) as u32);
            after.push(behind.max(0) as u32);
        }
        match op.mode {
            PadMode::Constant => {
                let fill = self.operand(node.inputs[1])?;
                self.surrounded(x, fill, &before, &after)
            }
            PadMode::Edge => self.draft.pad(x, before, after, "edge"),
            PadMode::Reflect => {
                let sizes = self.draft.shape(x).iter();
                let most = before.iter().zip(&after).map(|(before, after)| before.max(after));
                if most.zip(sizes).any(|(most, &size)| *most >= size) {
                    return Err("a mirror that is seen in another one".to_owned());
                }
                self.draft.pad(x, before, after, "reflection")
            }
            PadMode::Wrap => self.wrapped_around(x, &before, &after),
        }
    }

    /// `fill` around `x`, dimension by dimension.
    fn surrounded(&mut self, x: Id, fill: Id, before: &[u32], after: &[u32]) -> Result<Id, String> {
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

    fn wrapped_around(&mut self, x: Id, before: &[u32], after: &[u32]) -> Result<Id, String> {
        let mut x = x;
        for axis in 0..before.len() {
            let size = self.draft.shape(x)[axis];
            let mut parts = Vec::new();
            let mut at = (size - before[axis] % size) % size;
            let mut missing = before[axis] + size + after[axis];
            while missing > 0 {
                let take = (size - at).min(missing);
                parts.push(self.draft.slice_axis(x, axis, at, take)?);
                missing -= take;
                at = 0;
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
        // Batch dimensions are indices too: those of the place itself.
        let batch = op.batch_dims as usize;
        let shape = self.draft.shape(indices).to_vec();
        let (_, picked) = shape.split_last().ok_or("indices without dimensions")?;
        let mut columns = Vec::new();
        for axis in 0..batch {
            let words = (0..picked[axis]).collect();
            let mut line = vec![1; picked.len() + 1];
            line[axis] = picked[axis];
            let positions = self.draft.data(words, Type::Int32, &line)?;
            let column = [picked, &[1]].concat();
            columns.push(self.draft.expand(positions, &column)?);
        }
        columns.push(indices);
        let indices = self.draft.concat(columns, picked.len() as u32)?;
        self.draft.gather_nd(data, indices)
    }

    pub(super) fn scatter_elements(
        &mut self,
        node: &Node,
        op: &ScatterElements,
    ) -> Result<Id, String> {
        self.scattered(node, op.combine, |lowering, operands| {
            lowering.draft.scatter_elements(operands, op.axis)
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
