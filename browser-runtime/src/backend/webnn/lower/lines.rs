//! Operators over whole lines of a dimension.

use flotilla_program::{ArgReduce, Cumulative, Node, Reduce, ReduceKind, Resample, TopK};
use flotilla_tensor::DType;

use super::Lowering;
use crate::backend::webnn::draft::{Binary, Id, Reduction, Type, elements};

/// Most comparisons of elements with each other to compute an order.
const COMPARISONS_MAX: u64 = 1 << 22;

impl Lowering<'_> {
    pub(super) fn reduce(&mut self, node: &Node, op: &Reduce) -> Result<Id, String> {
        let x = self.operand(node.inputs[0])?;
        let orders = matches!(op.kind, ReduceKind::Min | ReduceKind::Max);
        let kind = match op.kind {
            ReduceKind::Sum => Reduction::Sum,
            ReduceKind::Mean => Reduction::Mean,
            ReduceKind::SumOfSquares => Reduction::SumSquare,
            ReduceKind::Product => Reduction::Product,
            ReduceKind::Min => Reduction::Min,
            ReduceKind::Max => Reduction::Max,
        };
        let ty = self.draft.ty(x);
        if ty == Type::Uint8 {
            let numbers = self.draft.cast(x, Type::Int32)?;
            let reduced = self.draft.reduce(kind, numbers, &op.axes)?;
            return self.draft.cast(reduced, ty);
        }
        if orders && self.dtype(node.inputs[0]) == DType::U32 {
            let turned = self.turned(x)?;
            let reduced = self.draft.reduce(kind, turned, &op.axes)?;
            return self.turned(reduced);
        }
        self.draft.reduce(kind, x, &op.axes)
    }

    /// Unsigned numbers as signed ones in the same order, and back.
    fn turned(&mut self, x: Id) -> Result<Id, String> {
        let turn = self.draft.scalar(f64::from(i32::MIN), Type::Int32)?;
        self.draft.binary(Binary::Add, x, turn)
    }

    /// An operand that WebNN orders like the values.
    fn ordered(&mut self, node: &Node) -> Result<Id, String> {
        let x = self.operand(node.inputs[0])?;
        if self.dtype(node.inputs[0]) == DType::U32 { self.turned(x) } else { Ok(x) }
    }

    pub(super) fn arg_reduce(&mut self, node: &Node, op: &ArgReduce) -> Result<Id, String> {
        let mut x = self.ordered(node)?;
        if !op.last {
            return self.draft.arg_reduce(x, op.axis, op.largest);
        }
        // The last one is the first one counted from the end.
        let size = self.draft.shape(x)[op.axis as usize];
        x = self.draft.reverse(x, op.axis)?;
        let from_behind = self.draft.arg_reduce(x, op.axis, op.largest)?;
        let last = self.draft.scalar(f64::from(size - 1), Type::Int32)?;
        self.draft.binary(Binary::Sub, last, from_behind)
    }

    pub(super) fn cumulative(&mut self, node: &Node, op: &Cumulative) -> Result<Id, String> {
        let x = self.operand(node.inputs[0])?;
        if op.product {
            return self.running_product(x, op);
        }
        self.draft.cumulative_sum(x, op.axis, op.exclusive, op.reverse)
    }

    /// Each element times the one before it, then times the element two before, and so on in powers of two.
    fn running_product(&mut self, x: Id, op: &Cumulative) -> Result<Id, String> {
        let axis = op.axis as usize;
        let size = self.draft.shape(x)[axis];
        let ty = self.draft.ty(x);
        let one = self.draft.scalar(1.0, ty)?;
        let mut y = if op.exclusive { self.shifted(x, one, axis, 1, op.reverse)? } else { x };
        let mut distance = 1;
        while distance < size {
            let before = self.shifted(y, one, axis, distance, op.reverse)?;
            y = self.draft.binary(Binary::Mul, y, before)?;
            distance *= 2;
        }
        Ok(y)
    }

    /// The element `distance` before each element, and `fill` where there is none.
    fn shifted(
        &mut self,
        x: Id,
        fill: Id,
        axis: usize,
        distance: u32,
        reverse: bool,
    ) -> Result<Id, String> {
        let mut shape = self.draft.shape(x).to_vec();
        let size = shape[axis];
        shape[axis] = distance.min(size);
        let around = self.draft.expand(fill, &shape)?;
        if distance >= size {
            return Ok(around);
        }
        let kept =
            self.draft.slice_axis(x, axis, if reverse { distance } else { 0 }, size - distance)?;
        let parts = if reverse { vec![kept, around] } else { vec![around, kept] };
        self.draft.concat(parts, axis as u32)
    }

    /// WebNN does not sort: an element's place is the number of elements before it, and the element at a place is
    /// found by comparing all places with it.
    pub(super) fn top_k(&mut self, node: &Node, op: &TopK, want: &[u32]) -> Result<Id, String> {
        let x = self.ordered(node)?;
        let shape = self.draft.shape(x).to_vec();
        let axis = op.axis as usize;
        let (size, taken) = (shape[axis], want[axis]);
        if elements(&shape) * u64::from(size) > COMPARISONS_MAX {
            return Err(format!(
                "WebNN does not sort, and {size} elements are too many to compare"
            ));
        }
        // `[.., size, 1, ..]` against `[.., 1, size, ..]`.
        let with = |first: u32, second: u32| {
            [&shape[..axis], &[first, second], &shape[axis + 1..]].concat()
        };
        let (own, other) =
            (self.draft.reshape(x, &with(size, 1))?, self.draft.reshape(x, &with(1, size))?);
        let mut line = vec![1; shape.len() + 1];
        line[axis] = size;
        let own_at = self.draft.data((0..size).collect(), Type::Int32, &line)?;
        line[axis] = 1;
        line[axis + 1] = size;
        let other_at = self.draft.data((0..size).collect(), Type::Int32, &line)?;
        let order = if op.largest { Binary::Greater } else { Binary::Lesser };
        let beyond = self.draft.binary(order, other, own)?;
        let equal = self.draft.binary(Binary::Equal, other, own)?;
        let earlier = self.draft.binary(Binary::Lesser, other_at, own_at)?;
        let tied = self.draft.binary(Binary::LogicalAnd, equal, earlier)?;
        let before = self.draft.binary(Binary::LogicalOr, beyond, tied)?;
        let before = self.draft.cast(before, Type::Int32)?;
        let places = self.draft.reduce(Reduction::Sum, before, &[op.axis + 1])?;
        line[axis + 1] = taken;
        let wanted = self.draft.data((0..taken).collect(), Type::Int32, &line)?;
        let is_there = self.draft.binary(Binary::Equal, places, wanted)?;
        let is_there = self.draft.cast(is_there, Type::Int32)?;
        let positions = self.draft.binary(Binary::Mul, is_there, own_at)?;
        let found = self.draft.reduce(Reduction::Sum, positions, &[op.axis])?;
        self.draft.reshape(found, want)
    }

    /// The position of the first sum above a number is how many sums are not above it.
    pub(super) fn first_above(&mut self, node: &Node, want: &[u32]) -> Result<Id, String> {
        let sums = self.operand(node.inputs[0])?;
        let (n, m) = (self.draft.shape(sums)[0], want[0]);
        if u64::from(n) * u64::from(m) > COMPARISONS_MAX {
            return Err(format!("{n} sums are too many to compare with {m} numbers"));
        }
        let sums = self.draft.reshape(sums, &[n, 1])?;
        let numbers = self.draft.data((0..m).collect(), Type::Int32, &[1, m])?;
        let not_above = self.draft.binary(Binary::LesserOrEqual, sums, numbers)?;
        let not_above = self.draft.cast(not_above, Type::Int32)?;
        let counted = self.draft.reduce(Reduction::Sum, not_above, &[0])?;
        self.draft.reshape(counted, want)
    }

    pub(super) fn resample(&mut self, node: &Node, op: &Resample) -> Result<Id, String> {
        let operands = self.operands(node)?;
        let (x, indices, weights) = (operands[0], operands[1], operands[2]);
        let &[count, taps] = self.draft.shape(indices) else {
            return Err("indices that are no table".to_owned());
        };
        let axis = op.axis as usize;
        let shape = self.draft.shape(x).to_vec();
        let flat = self.draft.reshape(indices, &[count * taps])?;
        let picked = self.draft.gather(x, flat, op.axis)?;
        let outer: u32 = shape[..axis].iter().product();
        let inner: u32 = shape[axis + 1..].iter().product();
        let picked = self.draft.reshape(picked, &[outer, count, taps, inner])?;
        let weights = self.draft.reshape(weights, &[1, count, taps, 1])?;
        let weighted = self.draft.binary(Binary::Mul, picked, weights)?;
        let sums = self.draft.reduce(Reduction::Sum, weighted, &[2])?;
        let mut resampled = shape;
        resampled[axis] = count;
        self.draft.reshape(sums, &resampled)
    }
}
