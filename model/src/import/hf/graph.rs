//! The words in which an architecture is written: layers that wire themselves into a typed graph.

use tract_onnx::{
    prelude::{
        DatumType, IntoArcTensor, OutletId, SpecialOps, Symbol, TVec, Tensor, ToDim, TypedFact,
        TypedModel, tensor0, tvec,
    },
    tract_hir::internal::{
        AxisOp, TypedOp,
        tract_core::ops::{
            array::Gather,
            binary::TypedBinOp,
            cast::Cast,
            change_axes::wire_with_rank_broadcast,
            einsum::EinSum,
            math,
            nn::{Reduce, Reducer},
        },
    },
};

use super::{HfError, WeightFile};

type Wired = Result<OutletId, HfError>;

/// A typed graph under construction and the weights it takes.
pub(super) struct Graph<'w> {
    model: TypedModel,
    weights: &'w WeightFile<'w>,
    outputs: Vec<OutletId>,
    names: Vec<String>,
    batch: Symbol,
    seq: Symbol,
}

fn graph_error(error: tract_onnx::prelude::TractError) -> HfError {
    HfError::Graph { reason: format!("{error:#}") }
}

impl<'w> Graph<'w> {
    pub(super) fn new(weights: &'w WeightFile<'w>) -> Graph<'w> {
        let model = TypedModel::default();
        let (batch, seq) = (model.symbols.sym("B"), model.symbols.sym("S"));
        Graph { model, weights, outputs: Vec::new(), names: Vec::new(), batch, seq }
    }

    /// The graph and the names of its outputs.
    pub(super) fn finish(self) -> (TypedModel, Vec<String>) {
        (self.model, self.names)
    }

    /// The symbol of the sequence length.
    pub(super) fn seq(&self) -> &Symbol {
        &self.seq
    }

    /// An input of `[B, S]` token numbers.
    pub(super) fn tokens(&mut self, name: &str) -> Wired {
        let fact = TypedFact::dt_shape(DatumType::I64, [self.batch.to_dim(), self.seq.to_dim()]);
        self.model.add_source(name, fact).map_err(graph_error)
    }

    pub(super) fn output(&mut self, name: &str, outlet: OutletId) -> Result<(), HfError> {
        self.outputs.push(outlet);
        self.names.push(name.to_owned());
        self.model.select_output_outlets(&self.outputs).map_err(graph_error)
    }

    pub(super) fn wire(
        &mut self,
        name: &str,
        op: impl Into<Box<dyn TypedOp>>,
        inputs: &[OutletId],
    ) -> Wired {
        Ok(self.model.wire_node(name, op, inputs).map_err(graph_error)?[0])
    }

    /// Two operands, the one of lower rank given leading dimensions of 1.
    pub(super) fn binary(&mut self, name: &str, op: TypedBinOp, a: OutletId, b: OutletId) -> Wired {
        Ok(wire_with_rank_broadcast(name, &mut self.model, op, &[a, b]).map_err(graph_error)?[0])
    }

    pub(super) fn add(&mut self, name: &str, a: OutletId, b: OutletId) -> Wired {
        self.binary(name, math::add(), a, b)
    }

    pub(super) fn constant(&mut self, name: &str, tensor: impl IntoArcTensor) -> Wired {
        self.model.add_const(name, tensor).map_err(graph_error)
    }

    /// An operation with a number as its right operand.
    pub(super) fn binary_const(
        &mut self,
        name: &str,
        op: TypedBinOp,
        a: OutletId,
        number: f32,
    ) -> Wired {
        let number = self.constant(&format!("{name}.constant"), tensor0(number))?;
        self.binary(name, op, a, number)
    }

    /// A weight of the model.
    pub(super) fn weight(&mut self, name: &str, shape: &[usize]) -> Wired {
        let tensor: Tensor = self.weights.tensor(name, shape)?;
        self.constant(name, tensor)
    }

    /// Rows of a table of `[rows, width]`, picked by token numbers.
    pub(super) fn embedding(
        &mut self,
        name: &str,
        indices: OutletId,
        rows: usize,
        width: usize,
    ) -> Wired {
        let table = self.weight(&format!("{name}.weight"), &[rows, width])?;
        self.wire(name, Gather::new(0), &[table, indices])
    }

    /// `x @ weight^T + bias` on `[B, S, from]`.
    pub(super) fn linear(&mut self, name: &str, x: OutletId, from: usize, to: usize) -> Wired {
        let weight = self.weight(&format!("{name}.weight"), &[to, from])?;
        let bias = self.weight(&format!("{name}.bias"), &[to])?;
        let product = self.einsum(&format!("{name}.product"), "bsk,nk->bsn", x, weight)?;
        self.add(name, product, bias)
    }

    pub(super) fn einsum(&mut self, name: &str, axes: &str, a: OutletId, b: OutletId) -> Wired {
        let axes = axes.parse().map_err(graph_error)?;
        self.wire(name, EinSum::new(axes, DatumType::F32), &[a, b])
    }

    /// Over the last of three dimensions. Source: Ba et al., "Layer Normalization", eq. 3.
    pub(super) fn layer_norm(
        &mut self,
        name: &str,
        x: OutletId,
        width: usize,
        epsilon: f32,
    ) -> Wired {
        let gamma = self.weight(&format!("{name}.weight"), &[width])?;
        let beta = self.weight(&format!("{name}.bias"), &[width])?;
        let mean = self.mean(&format!("{name}.mean"), x, width)?;
        let deviation = self.binary(&format!("{name}.deviation"), math::sub(), x, mean)?;
        let square = self.wire(&format!("{name}.square"), math::square(), &[deviation])?;
        let variance = self.mean(&format!("{name}.variance"), square, width)?;
        let sum = self.binary_const(&format!("{name}.epsilon"), math::add(), variance, epsilon)?;
        let factor = self.wire(&format!("{name}.factor"), math::rsqrt(), &[sum])?;
        let normalized =
            self.binary(&format!("{name}.normalized"), math::mul(), deviation, factor)?;
        let scaled = self.binary(&format!("{name}.scaled"), math::mul(), normalized, gamma)?;
        self.add(name, scaled, beta)
    }

    fn mean(&mut self, name: &str, x: OutletId, width: usize) -> Wired {
        let sum = self.reduce(&format!("{name}.sum"), Reducer::Sum, 2, x)?;
        self.binary_const(name, math::mul(), sum, (width as f32).recip())
    }

    pub(super) fn reduce(
        &mut self,
        name: &str,
        reducer: Reducer,
        axis: usize,
        x: OutletId,
    ) -> Wired {
        self.wire(name, Reduce { axes: tvec!(axis), reducer }, &[x])
    }

    pub(super) fn cast_float(&mut self, name: &str, x: OutletId) -> Wired {
        self.wire(name, Cast { to: DatumType::F32 }, &[x])
    }

    pub(super) fn add_axis(&mut self, name: &str, axis: usize, x: OutletId) -> Wired {
        self.wire(name, AxisOp::Add(axis), &[x])
    }

    /// Splits a dimension into several, or joins several into one.
    pub(super) fn reshape(
        &mut self,
        name: &str,
        at: usize,
        from: &[usize],
        to: &[usize],
        x: OutletId,
    ) -> Wired {
        let dims = |dims: &[usize]| -> TVec<_> { dims.iter().map(|dim| dim.to_dim()).collect() };
        self.wire(name, AxisOp::Reshape(at, dims(from), dims(to)), &[x])
    }
}
