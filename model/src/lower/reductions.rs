//! Operators that combine elements along a dimension.

use flotilla_program as program;
use tract_onnx::tract_hir::internal::{
    TypedNode,
    tract_core::ops::nn::{Reduce, Reducer, RmsNorm, Softmax, SoftmaxKind},
};

use super::{LowerResult, Lowering};
use flotilla_program::{self, Binary, Expr, Op, ReduceKind, Step, Unary, ValueId, dim::Dim};

impl Lowering<'_> {
    pub(super) fn softmax(&mut self, node: &TypedNode, op: &Softmax) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        if op.kind != SoftmaxKind::Softmax || op.quant_output_dt.is_some() {
            return Err(self.unsupported(node, "only the plain softmax can be had"));
        }
        let axes = sorted(&op.axes);
        if let [axis] = *axes {
            return self.single(node, Op::Softmax(program::Softmax { axis }), vec![input]);
        }
        // Several neighbours are one dimension.
        let neighbours = axes.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let (Some(&first), Some(&last), true) = (axes.first(), axes.last(), neighbours) else {
            return Err(self.unsupported(node, format!("softmax over the axes {axes:?}")));
        };
        let full = self.draft.shape(input).to_vec();
        let (first, last) = (first as usize, last as usize);
        let joined = Dim::Product(full[first..=last].to_vec());
        let joined = joined.as_fixed().map_or(joined, Dim::Fixed);
        let flat = [&full[..first], &[joined], &full[last + 1..]].concat();
        let dtype = self.draft.value(input).dtype;
        let joined = self.reshaped(node, input, flat.clone());
        let softmax = Op::Softmax(program::Softmax { axis: first as u32 });
        let softmax = self.draft.add_node(&node.name, softmax, vec![joined], dtype, flat);
        Ok(self.reshaped(node, softmax, full))
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
            Reducer::All => ReduceKind::Min,
            Reducer::Any => ReduceKind::Max,
            Reducer::ArgMax(_) | Reducer::ArgMin(_) => return self.arg_reduce(node, op),
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
