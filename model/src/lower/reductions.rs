//! Operators that combine elements along a dimension.

use tract_onnx::tract_hir::internal::{
    TypedNode,
    tract_core::ops::{
        array::CumSum,
        nn::{Reduce, Reducer, RmsNorm, Softmax, SoftmaxKind},
    },
};

use super::{LowerResult, Lowering};
use crate::{
    dim::Dim,
    program::{self, Binary, DType, Expr, Op, ReduceKind, Step, Unary, ValueId},
};

impl Lowering<'_> {
    pub(super) fn softmax(&mut self, node: &TypedNode, op: &Softmax) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        let [axis] = op.axes.as_slice() else {
            return Err(self.unsupported(
                node,
                format!("softmax over {} axes, only one can be had", op.axes.len()),
            ));
        };
        if op.kind != SoftmaxKind::Softmax || op.quant_output_dt.is_some() {
            return Err(self.unsupported(node, "only the plain softmax can be had"));
        }
        self.single(node, Op::Softmax(program::Softmax { axis: *axis as u32 }), vec![input])
    }

    pub(super) fn reduce(&mut self, node: &TypedNode, op: &Reduce) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        let kind = match op.reducer {
            Reducer::Sum => ReduceKind::Sum,
            Reducer::Prod => ReduceKind::Product,
            Reducer::Min => ReduceKind::Min,
            Reducer::Max => ReduceKind::Max,
            Reducer::MeanOfSquares => {
                let squares = self.elementwise(
                    node,
                    vec![Step::Input(0), Step::Unary(Unary::Square, 0)],
                    input,
                );
                return self.single(node, mean(&op.axes), vec![squares]);
            }
            Reducer::ArgMax(_) | Reducer::ArgMin(_) | Reducer::All | Reducer::Any => {
                return Err(
                    self.unsupported(node, format!("there is no lowering for {:?}", op.reducer))
                );
            }
        };
        let axes = sorted(&op.axes);
        self.single(node, Op::Reduce(program::Reduce { kind, axes }), vec![input])
    }

    /// `x / sqrt(mean(x^2) + eps)`. Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", eq. 4.
    pub(super) fn rms_norm(&mut self, node: &TypedNode, op: &RmsNorm) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        let epsilon = op
            .eps
            .cast_to_scalar::<f32>()
            .map_err(|error| self.unsupported(node, format!("epsilon cannot be read: {error}")))?;
        let squares =
            self.elementwise(node, vec![Step::Input(0), Step::Unary(Unary::Square, 0)], input);
        let dtype = self.draft.value(input).dtype;
        let mut shape = self.draft.shape(input).to_vec();
        shape[op.axis] = Dim::Fixed(1);
        let mean = self.draft.add_node(&node.name, mean(&[op.axis]), vec![squares], dtype, shape);
        let steps = vec![
            Step::Input(0),
            Step::Float(epsilon),
            Step::Binary(Binary::Add, 0, 1),
            Step::Unary(Unary::Rsqrt, 2),
        ];
        let inverse = self.elementwise(node, steps, mean);
        let steps = vec![Step::Input(0), Step::Input(1), Step::Binary(Binary::Mul, 0, 1)];
        self.single(node, Op::Elementwise(Expr { steps }), vec![input, inverse])
    }

    /// A cumulative sum as a sum over the pairs of positions that count: quadratic in the axis, which is a sequence
    /// of token positions wherever this occurs, and made of operators that every backend has.
    pub(super) fn cumulative_sum(&mut self, node: &TypedNode, op: &CumSum) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        let dtype = self.draft.value(input).dtype;
        let shape = self.draft.shape(input).to_vec();
        if op.axis + 1 != shape.len() {
            return Err(self.unsupported(node, "only the last axis can be summed up cumulatively"));
        }
        let (rank, length) = (shape.len(), shape[op.axis].clone());
        let mut sources = shape[..op.axis].to_vec();
        sources.extend([Dim::Fixed(1), length.clone()]);
        let source = self.reshaped(node, input, sources.clone());

        let range = program::Range { start: Dim::Fixed(0), stride: Dim::Fixed(1) };
        let positions = self.draft.add_node(
            &node.name,
            Op::Range(range),
            Vec::new(),
            DType::I32,
            vec![length.clone()],
        );
        let mut from_shape = vec![Dim::Fixed(1); rank + 1];
        from_shape[rank] = length.clone();
        let from = self.reshaped(node, positions, from_shape);
        let mut to_shape = vec![Dim::Fixed(1); rank + 1];
        to_shape[rank - 1] = length.clone();
        let to = self.reshaped(node, positions, to_shape);

        let counts = match (op.reverse, op.exclusive) {
            (false, false) => Binary::Le,
            (false, true) => Binary::Lt,
            (true, false) => Binary::Ge,
            (true, true) => Binary::Gt,
        };
        let zero = match dtype {
            DType::F32 => Step::Float(0.0),
            DType::I32 => Step::Int(0),
            other => {
                return Err(
                    self.unsupported(node, format!("cumulative sums of {other:?} cannot be had"))
                );
            }
        };
        let steps = vec![
            Step::Input(0),
            Step::Input(1),
            Step::Input(2),
            Step::Binary(counts, 1, 2),
            zero,
            Step::Select(3, 0, 4),
        ];
        let mut pairs = sources;
        pairs[op.axis] = length;
        let terms = self.draft.add_node(
            &node.name,
            Op::Elementwise(Expr { steps }),
            vec![source, from, to],
            dtype,
            pairs.clone(),
        );
        pairs[rank] = Dim::Fixed(1);
        let sum = Op::Reduce(program::Reduce { kind: ReduceKind::Sum, axes: vec![rank as u32] });
        let summed = self.draft.add_node(&node.name, sum, vec![terms], dtype, pairs);
        self.single(node, Op::Reshape, vec![summed])
    }

    /// An expression of one input that the typed graph does not have.
    fn elementwise(&mut self, node: &TypedNode, steps: Vec<Step>, input: ValueId) -> ValueId {
        let (dtype, shape) = (self.draft.value(input).dtype, self.draft.shape(input).to_vec());
        self.draft.add_node(&node.name, Op::Elementwise(Expr { steps }), vec![input], dtype, shape)
    }
}

fn mean(axes: &[usize]) -> Op {
    Op::Reduce(program::Reduce { kind: ReduceKind::Mean, axes: sorted(axes) })
}

fn sorted(axes: &[usize]) -> Vec<u32> {
    let mut axes: Vec<u32> = axes.iter().map(|&axis| axis as u32).collect();
    axes.sort_unstable();
    axes
}
