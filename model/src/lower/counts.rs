//! Dimensions that a run's data decide: what may happen to them.
//!
//! While a program runs, such a dimension is as long as it can become, and the elements beyond what it has become mean
//! nothing. So a node may take such a value only if those elements stay beyond the end of its result.

use tract_onnx::{prelude::TDim, tract_hir::internal::TypedNode};

use super::{LowerError, LowerResult, Lowering, draft::Draft};
use crate::import::Counted;
use flotilla_program::{
    Count, Expr, Node, Op, Step, ValueId,
    dim::{Dim, Symbol},
};

impl Lowering<'_> {
    /// The same elements under a shape with a count's symbol in it.
    pub(super) fn counted(&mut self, node: &TypedNode, op: &Counted) -> LowerResult<ValueId> {
        let (x, value) = (self.value_of(node.inputs[0])?, self.value_of(node.inputs[1])?);
        let most = self.dim(node, &op.most)?;
        let Dim::Symbol(symbol) = self.dim(node, &TDim::Sym(op.symbol.clone()))? else {
            return Err(self.unsupported(node, "its count is no symbol"));
        };
        if !self.draft.counts.iter().any(|count| count.symbol == symbol) {
            self.draft.counts.push(Count { symbol, most, value });
        }
        self.single(node, Op::Reshape, vec![x])
    }
}

/// Refuses the first node that would let elements without a meaning into others.
pub(super) fn check_counts(draft: &Draft) -> LowerResult<()> {
    for node in &draft.nodes {
        if depends_on_unknown(draft, node) || !keeps_apart(draft, node) {
            let output = draft.value(node.outputs[0]);
            return Err(LowerError::Unsupported {
                node: node.name.clone(),
                op: node.op.name().to_owned(),
                dtype: format!("{:?}", output.dtype),
                shape: format!("{:?}", output.shape),
                reason: "how many elements it has is only known when it has run".to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether a number that only a cut would make known is needed where nothing is cut.
fn depends_on_unknown(draft: &Draft, node: &Node) -> bool {
    let known = |symbol: Symbol| {
        let given = draft.inputs.iter().flat_map(|port| draft.shape(port.value));
        draft.counts.iter().any(|count| count.symbol == symbol)
            || given.into_iter().any(|dim| *dim == Dim::Symbol(symbol))
    };
    let unknown: Vec<Symbol> =
        (0..draft.symbols.len() as u32).map(Symbol).filter(|&symbol| !known(symbol)).collect();
    let mentions = |dim: &Dim| unknown.iter().any(|&symbol| dim.mentions(symbol));
    let shapes = node.inputs.iter().chain(&node.outputs).flat_map(|&value| draft.shape(value));
    let own = match &node.op {
        Op::Elementwise(Expr { steps }) => {
            steps.iter().any(|step| matches!(step, Step::Dim(dim) if mentions(dim)))
        }
        Op::Slice(slice) => mentions(&slice.start),
        Op::Range(range) => mentions(&range.start) || mentions(&range.stride),
        _ => false,
    };
    !unknown.is_empty() && (own || shapes.into_iter().any(mentions))
}

/// Whether what lies beyond the end of an operand stays beyond the end of the result.
fn keeps_apart(draft: &Draft, node: &Node) -> bool {
    let counted = |dim: &Dim| draft.counts.iter().any(|count| dim.mentions(count.symbol));
    let open = |value: ValueId| -> Vec<usize> {
        let shape = draft.shape(value).iter().enumerate();
        shape.filter(|(_, dim)| counted(dim)).map(|(axis, _)| axis).collect()
    };
    let inputs: Vec<Vec<usize>> = node.inputs.iter().map(|&input| open(input)).collect();
    let output = open(node.outputs[0]);
    let closed = |input: usize, axis: u32| {
        inputs.get(input).is_some_and(|open| !open.contains(&(axis as usize)))
    };
    match &node.op {
        Op::Elementwise(Expr { steps }) => {
            !steps.iter().any(|step| matches!(step, Step::Dim(dim) if counted(dim)))
        }
        Op::Slice(slice) => closed(0, slice.axis) && !counted(&slice.start),
        Op::Range(range) => !counted(&range.start) && !counted(&range.stride),
        Op::Transpose(_) | Op::Broadcast => true,
        // What has no such dimension yet is being cut; else row-major order keeps the end where it is only if nothing longer
        // than 1 lies before the dimension.
        Op::Reshape => {
            let leads = |value: ValueId, axis: usize| {
                draft.shape(value)[..axis].iter().all(|dim| dim.as_fixed() == Some(1))
            };
            inputs[0].is_empty()
                || inputs[0].iter().all(|&axis| leads(node.inputs[0], axis))
                    && output.iter().all(|&axis| leads(node.outputs[0], axis))
        }
        Op::Concat(concat) => (0..inputs.len()).all(|input| closed(input, concat.axis)),
        // Which of the data are picked must not depend on how many there are; picks may be as many as they like.
        Op::Gather(gather) => closed(0, gather.axis),
        Op::GatherElements(_) | Op::GatherNd(_) => inputs[0].is_empty(),
        Op::Softmax(softmax) => closed(0, softmax.axis),
        Op::Reduce(reduce) => reduce.axes.iter().all(|&axis| closed(0, axis)),
        // Every other operator may read what is beyond the end.
        _ => inputs.iter().all(Vec::is_empty) && output.is_empty(),
    }
}
