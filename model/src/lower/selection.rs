//! Operators that pick elements by index, put them there, or find where they are.

use flotilla_program as program;
use tract_onnx::tract_hir::internal::{
    TypedNode,
    tract_core::ops::{
        array::{
            CumSum, GatherNd, MultiBroadcastTo, OneHot, ScatterElements, ScatterNd,
            ScatterReduction, Topk,
        },
        nn::{Reduce, Reducer},
    },
};

use super::{LowerResult, Lowered, Lowering};
use flotilla_program::{self, Binary, Combine, DType, Expr, Op, Step, ValueId, dim::Dim};

/// Shortest dimension that is sorted whole for its first elements.
const SORTED_MIN: i64 = 2048;

impl Lowering<'_> {
    /// Data of one row, or data that repeats one row, is gathered from plainly.
    pub(super) fn gather_elements(
        &mut self,
        node: &TypedNode,
        axis: usize,
    ) -> LowerResult<ValueId> {
        let repeated = self.model.node(node.inputs[0].node);
        let source =
            if repeated.op_is::<MultiBroadcastTo>() { repeated.inputs[0] } else { node.inputs[0] };
        let (row, indices) = (self.value_of(source)?, self.value_of(node.inputs[1])?);
        let shape = self.draft.shape(row);
        let one_row = shape.len() == self.draft.shape(indices).len()
            && shape
                .iter()
                .enumerate()
                .all(|(index, dim)| index == axis || dim.as_fixed() == Some(1));
        if one_row && shape[axis].as_fixed() != Some(1) {
            let flat = vec![shape[axis].clone()];
            let row = self.reshaped(node, row, flat);
            let gather = Op::Gather(program::Gather { axis: 0 });
            return self.single(node, gather, vec![row, indices]);
        }
        let data = self.value_of(node.inputs[0])?;
        let gather = Op::GatherElements(program::GatherElements { axis: axis as u32 });
        self.single(node, gather, vec![data, indices])
    }

    pub(super) fn gather_nd(&mut self, node: &TypedNode, op: &GatherNd) -> LowerResult<ValueId> {
        let inputs = self.values(node)?;
        let batch_dims = op.batch_dims as u32;
        self.single(node, Op::GatherNd(program::GatherNd { batch_dims }), inputs)
    }

    pub(super) fn scatter_elements(
        &mut self,
        node: &TypedNode,
        op: &ScatterElements,
    ) -> LowerResult<ValueId> {
        let inputs = self.values(node)?;
        let (axis, combine) = (op.axis as u32, combine(op.reduction));
        self.single(node, Op::ScatterElements(program::ScatterElements { axis, combine }), inputs)
    }

    pub(super) fn scatter_nd(&mut self, node: &TypedNode, op: &ScatterNd) -> LowerResult<ValueId> {
        let inputs = self.values(node)?;
        let combine = combine(op.reduction);
        self.single(node, Op::ScatterNd(program::ScatterNd { combine }), inputs)
    }

    /// Positions by an operator of their own; the values are then gathered. The first of a long dimension, or of one whose
    /// length is only known when it runs, are taken from all of it in order, which is faster than to count their ranks.
    pub(super) fn top_k(&mut self, node: &TypedNode, op: &Topk) -> LowerResult<Vec<Lowered>> {
        let input = self.value_of(node.inputs[0])?;
        let shape = self.fact_shape(node, &node.outputs[0].fact)?;
        let (dtype, all) = (self.draft.value(input).dtype, self.draft.shape(input).to_vec());
        let axis = op.axis as u32;
        let top = Op::TopK(program::TopK { axis, largest: op.largest });
        let sorted = all[op.axis].as_fixed().is_none_or(|size| size >= SORTED_MIN) && shape != all;
        let among = if sorted { all } else { shape.clone() };
        let mut positions = self.draft.add_node(&node.name, top, vec![input], DType::I32, among);
        if sorted {
            let first = Op::Slice(program::Slice { axis, start: Dim::Fixed(0), stride: 1 });
            positions =
                self.draft.add_node(&node.name, first, vec![positions], DType::I32, shape.clone());
        }
        let gather = Op::GatherElements(program::GatherElements { axis });
        let values = self.draft.add_node(&node.name, gather, vec![input, positions], dtype, shape);
        Ok(vec![Lowered::Value(values), Lowered::Value(positions)])
    }

    /// `on` where the index (counted from either end) is the position along the new dimension, else `off`.
    pub(super) fn one_hot(&mut self, node: &TypedNode, op: &OneHot) -> LowerResult<ValueId> {
        let indices = self.value_of(node.inputs[0])?;
        if self.draft.value(indices).dtype != DType::I32 {
            return Err(self.unsupported(node, "only signed integers can be made one-hot"));
        }
        let mut shape = self.draft.shape(indices).to_vec();
        shape.insert(op.axis, Dim::Fixed(1));
        let indices = self.reshaped(node, indices, shape);
        let range = program::Range { start: Dim::Fixed(0), stride: Dim::Fixed(1) };
        let depth = Dim::Fixed(op.dim as i64);
        let positions = self.draft.add_node(
            &node.name,
            Op::Range(range),
            Vec::new(),
            DType::I32,
            vec![depth.clone()],
        );
        let rank = node.outputs[0].fact.rank();
        let mut shape = vec![Dim::Fixed(1); rank];
        shape[op.axis] = depth;
        let positions = self.reshaped(node, positions, shape);
        let on = self.constant_value(node, &op.on)?;
        let off = self.constant_value(node, &op.off)?;
        let steps = vec![
            Step::Input(0),
            Step::Int(0),
            Step::Binary(Binary::Lt, 0, 1),
            Step::Int(op.dim as i32),
            Step::Binary(Binary::Add, 0, 3),
            Step::Select(2, 4, 0),
            Step::Input(1),
            Step::Binary(Binary::Eq, 5, 6),
            Step::Input(2),
            Step::Input(3),
            Step::Select(7, 8, 9),
        ];
        let inputs = vec![indices, positions, on, off];
        self.single(node, Op::Elementwise(Expr { steps }), inputs)
    }

    pub(super) fn cumulative_sum(&mut self, node: &TypedNode, op: &CumSum) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        let cumulative = program::Cumulative {
            axis: op.axis as u32,
            product: false,
            exclusive: op.exclusive,
            reverse: op.reverse,
        };
        self.single(node, Op::Cumulative(cumulative), vec![input])
    }

    pub(super) fn arg_reduce(&mut self, node: &TypedNode, op: &Reduce) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        let (largest, last) = match op.reducer {
            Reducer::ArgMax(last) => (true, last),
            Reducer::ArgMin(last) => (false, last),
            _ => return Err(self.unsupported(node, "it does not give positions")),
        };
        let [axis] = op.axes.as_slice() else {
            return Err(self.unsupported(node, "positions along several axes cannot be had"));
        };
        let arg = program::ArgReduce { axis: *axis as u32, largest, last };
        self.single(node, Op::ArgReduce(arg), vec![input])
    }
}

fn combine(reduction: ScatterReduction) -> Combine {
    match reduction {
        ScatterReduction::None => Combine::Replace,
        ScatterReduction::Add => Combine::Add,
        ScatterReduction::Mul => Combine::Multiply,
        ScatterReduction::Min => Combine::Min,
        ScatterReduction::Max => Combine::Max,
    }
}
