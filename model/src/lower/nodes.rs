//! One typed node to one or a few of ours.

use flotilla_program as program;
use std::sync::Arc;

use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, Tensor, TypedFact},
    tract_hir::internal::{
        AxisOp, TypedNode,
        tract_core::ops::{
            array::{
                CumSum, DynSlice, FiniteReshape, Gather, GatherElements, GatherNd,
                MultiBroadcastTo, OneHot, Pad, Range, ScatterElements, ScatterNd, Slice, Topk,
                TypedConcat,
            },
            binary::TypedBinOp,
            cast::Cast,
            cnn::{Conv, Deconv, MaxPool, SumPool},
            downsample::Downsample,
            einsum::EinSum,
            element_wise::ElementWiseOp,
            identity::Identity,
            konst::Const,
            logic::Iff,
            nn::{GridSample, Reduce, RmsNorm, Softmax},
        },
    },
};

use super::{
    LowerError, LowerResult, Lowered, Lowering,
    constants::storage_data,
    dims::tensor_dims,
    draft::{Data, Origin},
    element_type,
};
use crate::import::{Convolve, Counted, ProgramOp, ToReal};
use flotilla_program::{self, DType, Expr, Op, Step, ValueId, WORD_BYTES, dim::Dim};

impl<'m> Lowering<'m> {
    /// What each of a node's outputs becomes.
    pub(super) fn node(&mut self, node: &'m TypedNode) -> LowerResult<Vec<Lowered>> {
        if let Some(op) = node.op_as::<Const>() {
            return Ok(vec![self.constant(node, op.val())?]);
        }
        if let Some(tensor) = &self.output_fact(node).konst {
            return Ok(vec![self.constant(node, tensor)?]);
        }
        if node.op_is::<Identity>() {
            return Ok(vec![self.outlets[&node.inputs[0]].clone()]);
        }
        let value = if let Some(op) = node.op_as::<Cast>() {
            return Ok(vec![self.cast(node, op.to)?]);
        } else if let Some(op) = node.op_as::<ToReal>() {
            return Ok(vec![self.cast(node, op.cast.to)?]);
        } else if let Some(op) = node.op_as::<TypedBinOp>() {
            self.binary(node, op)?
        } else if let Some(op) = node.op_as::<Counted>() {
            self.counted(node, op)?
        } else if let Some(op) = node.op_as::<ProgramOp>() {
            let inputs = self.values(node)?;
            self.single(node, Op::clone(&op.op), inputs)?
        } else if let Some(op) = node.op_as::<ElementWiseOp>() {
            self.unary(node, op)?
        } else if node.op_is::<Iff>() {
            self.select(node)?
        } else if let Some(op) = node.op_as::<EinSum>() {
            self.einsum(node, op)?
        } else if let Some(op) = node.op_as::<AxisOp>() {
            self.axis_op(node, op)?
        } else if node.op_is::<FiniteReshape>() {
            let input = self.value_of(node.inputs[0])?;
            self.single(node, Op::Reshape, vec![input])?
        } else if let Some(op) = node.op_as::<MultiBroadcastTo>() {
            self.broadcast(node, op)?
        } else if let Some(op) = node.op_as::<Slice>() {
            self.slice(node, op.axis, &op.start)?
        } else if let Some(op) = node.op_as::<DynSlice>() {
            let start = self.scalar_dim(node, node.inputs[1])?;
            self.slice(node, op.axis, &start)?
        } else if let Some(op) = node.op_as::<TypedConcat>() {
            let inputs = self.values(node)?;
            self.single(node, Op::Concat(program::Concat { axis: op.axis as u32 }), inputs)?
        } else if let Some(op) = node.op_as::<Gather>() {
            let inputs = self.values(node)?;
            self.single(node, Op::Gather(program::Gather { axis: op.axis as u32 }), inputs)?
        } else if let Some(op) = node.op_as::<GatherElements>() {
            self.gather_elements(node, op.axis)?
        } else if let Some(op) = node.op_as::<Downsample>() {
            self.downsample(node, op)?
        } else if let Some(op) = node.op_as::<Pad>() {
            self.pad(node, op)?
        } else if let Some(op) = node.op_as::<GridSample>() {
            self.grid_sample(node, op)?
        } else if let Some(op) = node.op_as::<GatherNd>() {
            self.gather_nd(node, op)?
        } else if let Some(op) = node.op_as::<ScatterElements>() {
            self.scatter_elements(node, op)?
        } else if let Some(op) = node.op_as::<ScatterNd>() {
            self.scatter_nd(node, op)?
        } else if let Some(op) = node.op_as::<Topk>() {
            return self.top_k(node, op);
        } else if let Some(op) = node.op_as::<OneHot>() {
            self.one_hot(node, op)?
        } else if node.op_is::<Range>() {
            self.range(node)?
        } else if let Some(op) = node.op_as::<CumSum>() {
            self.cumulative_sum(node, op)?
        } else if let Some(op) = node.op_as::<Softmax>() {
            self.softmax(node, op)?
        } else if let Some(op) = node.op_as::<Reduce>() {
            self.reduce(node, op)?
        } else if let Some(op) = node.op_as::<RmsNorm>() {
            self.rms_norm(node, op)?
        } else if let Some(op) = node.op_as::<Conv>() {
            self.conv(node, op)?
        } else if let Some(Convolve(op)) = node.op_as::<Convolve>() {
            self.conv(node, op)?
        } else if let Some(op) = node.op_as::<Deconv>() {
            self.deconv(node, op)?
        } else if let Some(op) = node.op_as::<MaxPool>() {
            self.max_pool(node, op)?
        } else if let Some(op) = node.op_as::<SumPool>() {
            self.sum_pool(node, op)?
        } else {
            return Err(self.unsupported(node, "there is no lowering for this operator"));
        };
        Ok(vec![Lowered::Value(value)])
    }

    fn constant(&mut self, node: &TypedNode, tensor: &Arc<Tensor>) -> LowerResult<Lowered> {
        if tensor.datum_type() == DatumType::TDim {
            let dims = tensor_dims(tensor)
                .ok_or_else(|| self.unsupported(node, "its dimensions cannot be read"))?;
            return Ok(Lowered::Dims { shape: tensor.shape().to_vec(), dims });
        }
        let (dtype, data) = match storage_data(tensor) {
            Ok(stored) => stored,
            // Integers that do not fit may still be sentinels that only shapes use; they become dimensions, which
            // are refused if a value is made of them.
            Err(source) => match tensor_dims(tensor) {
                Some(dims) if tensor.datum_type() == DatumType::I64 => {
                    return Ok(Lowered::Dims { shape: tensor.shape().to_vec(), dims });
                }
                _ => return Err(LowerError::Constant { node: node.name.clone(), source }),
            },
        };
        let shape = tensor.shape().iter().map(|&dim| Dim::Fixed(dim as i64)).collect();
        Ok(Lowered::Value(self.draft.add_value(dtype, shape, Origin::Constant(data))))
    }

    /// A constant that an operator brings along.
    pub(super) fn constant_value(
        &mut self,
        node: &TypedNode,
        tensor: &Arc<Tensor>,
    ) -> LowerResult<ValueId> {
        let (dtype, data) = storage_data(tensor)
            .map_err(|source| LowerError::Constant { node: node.name.clone(), source })?;
        let shape = tensor.shape().iter().map(|&dim| Dim::Fixed(dim as i64)).collect();
        Ok(self.draft.add_value(dtype, shape, Origin::Constant(data)))
    }

    /// Casts that every element survives unchanged, such as between 32 and 64 bits, which a page does not tell apart, are
    /// nothing.
    fn cast(&mut self, node: &TypedNode, to: DatumType) -> LowerResult<Lowered> {
        let source = self.dtype(node, self.model_fact(node.inputs[0]))?;
        let target = element_type(to)
            .ok_or_else(|| self.unsupported(node, format!("elements of type {to:?}")))?;
        let same = source.storage() == target.storage();
        let widens = source.wire_bytes().min(WORD_BYTES) <= target.wire_bytes();
        let exact = source == target || !target.is_narrow() || source.is_narrow() && widens;
        let halves = source != target && source.is_narrow() && target.is_narrow();
        if same && exact && !(source.is_float() && halves) {
            return Ok(self.outlets[&node.inputs[0]].clone());
        }
        let input = self.value_of(node.inputs[0])?;
        let steps = vec![Step::Input(0), Step::Cast(target, 0)];
        Ok(Lowered::Value(self.single(node, Op::Elementwise(Expr { steps }), vec![input])?))
    }

    /// A node with one output of the typed node's first fact.
    pub(super) fn single(
        &mut self,
        node: &TypedNode,
        op: Op,
        inputs: Vec<ValueId>,
    ) -> LowerResult<ValueId> {
        let fact = &node.outputs[0].fact;
        let dtype = self.dtype(node, fact)?.storage();
        let shape = self.fact_shape(node, fact)?;
        Ok(self.draft.add_node(&node.name, op, inputs, dtype, shape))
    }

    pub(super) fn values(&mut self, node: &TypedNode) -> LowerResult<Vec<ValueId>> {
        node.inputs.iter().map(|&input| self.value_of(input)).collect()
    }

    pub(super) fn model_fact(&self, outlet: OutletId) -> &'m TypedFact {
        &self.model.node(outlet.node).outputs[outlet.slot].fact
    }

    /// The value of an outlet; numbers known from shapes are made a value here, once.
    pub(super) fn value_of(&mut self, outlet: OutletId) -> LowerResult<ValueId> {
        let node = self.model.node(outlet.node);
        let (shape, dims) = match self.outlets.get(&outlet) {
            Some(Lowered::Value(value)) => return Ok(*value),
            Some(Lowered::Dims { shape, dims }) => (shape.clone(), dims.clone()),
            None => return Err(self.unsupported(node, "it has no such output")),
        };
        let value_shape: Vec<Dim> = shape.iter().map(|&dim| Dim::Fixed(dim as i64)).collect();
        let fixed: Option<Vec<i64>> = dims.iter().map(|dim| dim.as_i64()).collect();
        let value = if let Some(fixed) = fixed {
            let mut bytes = Vec::with_capacity(4 * fixed.len());
            for number in fixed {
                let number = i32::try_from(number).map_err(|_| {
                    self.unsupported(node, format!("constant {number} does not fit 32 bits"))
                })?;
                bytes.extend(number.to_le_bytes());
            }
            self.draft.add_value(
                DType::I32,
                value_shape,
                Origin::Constant(Data::Bytes(bytes.into())),
            )
        } else if let [dim] = dims.as_slice() {
            let dim = self.dim(node, dim)?;
            let op = Op::Elementwise(Expr { steps: vec![Step::Dim(dim)] });
            self.draft.add_node(&node.name, op, Vec::new(), DType::I32, value_shape)
        } else {
            let mut parts = Vec::with_capacity(dims.len());
            for dim in &dims {
                let dim = self.dim(node, dim)?;
                let op = Op::Elementwise(Expr { steps: vec![Step::Dim(dim)] });
                parts.push(self.draft.add_node(
                    &node.name,
                    op,
                    Vec::new(),
                    DType::I32,
                    vec![Dim::Fixed(1)],
                ));
            }
            let count = vec![Dim::Fixed(dims.len() as i64)];
            let joined = self.draft.add_node(
                &node.name,
                Op::Concat(program::Concat { axis: 0 }),
                parts,
                DType::I32,
                count,
            );
            self.draft.add_node(&node.name, Op::Reshape, vec![joined], DType::I32, value_shape)
        };
        self.outlets.insert(outlet, Lowered::Value(value));
        Ok(value)
    }

    /// The one number of an outlet that is known from shapes.
    pub(super) fn scalar_dim(&self, node: &TypedNode, outlet: OutletId) -> LowerResult<TDim> {
        let known = match self.outlets.get(&outlet) {
            Some(Lowered::Dims { dims, .. }) => dims.first().cloned(),
            _ => self
                .model_fact(outlet)
                .konst
                .as_deref()
                .and_then(tensor_dims)
                .and_then(|dims| dims.first().cloned()),
        };
        known.ok_or_else(|| {
            self.unsupported(node, "an operand that shapes depend on is only known when it runs")
        })
    }
}
