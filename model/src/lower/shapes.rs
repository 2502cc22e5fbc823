//! Operators that move elements without computing with them.

use flotilla_program as program;
use tract_onnx::{
    prelude::TDim,
    tract_hir::internal::{
        AxisOp, ToDim, TypedNode,
        tract_core::ops::{array::MultiBroadcastTo, downsample::Downsample},
    },
};

use super::{LowerResult, Lowering};
use flotilla_program::{self, DType, Op, ValueId, dim::Dim};

impl Lowering<'_> {
    pub(super) fn axis_op(&mut self, node: &TypedNode, op: &AxisOp) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        match op {
            AxisOp::Add(_) | AxisOp::Rm(_) | AxisOp::Reshape(..) => {
                self.single(node, Op::Reshape, vec![input])
            }
            AxisOp::Move(from, to) => {
                let mut perm: Vec<u32> = (0..self.draft.shape(input).len() as u32).collect();
                let moved = perm.remove(*from);
                perm.insert(*to, moved);
                self.single(node, Op::Transpose(program::Transpose { perm }), vec![input])
            }
        }
    }

    /// Broadcasting may also add leading dimensions; ours does not, so they are put there first.
    pub(super) fn broadcast(
        &mut self,
        node: &TypedNode,
        op: &MultiBroadcastTo,
    ) -> LowerResult<ValueId> {
        let mut input = self.value_of(node.inputs[0])?;
        let missing = op.shape.rank().saturating_sub(self.draft.shape(input).len());
        if missing > 0 {
            let mut shape = vec![Dim::Fixed(1); missing];
            shape.extend_from_slice(self.draft.shape(input));
            input = self.reshaped(node, input, shape);
        }
        self.single(node, Op::Broadcast, vec![input])
    }

    pub(super) fn slice(
        &mut self,
        node: &TypedNode,
        axis: usize,
        start: &TDim,
    ) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        // tract has resolved negative and "to the end" bounds against the dimension already; the length is the
        // output's.
        let start = self.dim(node, start)?;
        self.single(
            node,
            Op::Slice(program::Slice { axis: axis as u32, start, stride: 1 }),
            vec![input],
        )
    }

    /// Every so many elements of an axis, from the end where the stride is negative.
    pub(super) fn downsample(&mut self, node: &TypedNode, op: &Downsample) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        let size = self.model_fact(node.inputs[0]).shape[op.axis].clone();
        let start = if op.stride < 0 { size - 1 } else { op.modulo.to_dim() };
        let start = self.dim(node, &start)?;
        let (axis, stride) = (op.axis as u32, op.stride as i64);
        self.single(node, Op::Slice(program::Slice { axis, start, stride }), vec![input])
    }

    pub(super) fn range(&mut self, node: &TypedNode) -> LowerResult<ValueId> {
        let start = self.scalar_dim(node, node.inputs[0])?;
        let stride = self.scalar_dim(node, node.inputs[2])?;
        let range =
            program::Range { start: self.dim(node, &start)?, stride: self.dim(node, &stride)? };
        if self.dtype(node, &node.outputs[0].fact)?.storage() != DType::I32 {
            return Err(self.unsupported(node, "only a range of integers can be had"));
        }
        self.single(node, Op::Range(range), Vec::new())
    }

    /// A reshape that the typed graph does not have.
    pub(super) fn reshaped(
        &mut self,
        node: &TypedNode,
        input: ValueId,
        shape: Vec<Dim>,
    ) -> ValueId {
        if self.draft.shape(input) == shape {
            return input;
        }
        let dtype = self.draft.value(input).dtype;
        self.draft.add_node(&node.name, Op::Reshape, vec![input], dtype, shape)
    }

    /// A transposition that the typed graph does not have.
    pub(super) fn transposed(
        &mut self,
        node: &TypedNode,
        input: ValueId,
        perm: Vec<u32>,
    ) -> ValueId {
        if perm.iter().enumerate().all(|(to, &from)| to as u32 == from) {
            return input;
        }
        let dtype = self.draft.value(input).dtype;
        let shape =
            perm.iter().map(|&from| self.draft.shape(input)[from as usize].clone()).collect();
        self.draft.add_node(
            &node.name,
            Op::Transpose(program::Transpose { perm }),
            vec![input],
            dtype,
            shape,
        )
    }
}
