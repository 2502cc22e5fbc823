//! What an operator is wired with: its operands, its attributes, and the typed graph in the making.

use std::sync::Arc;

use tract_onnx::{
    pb::{AttributeProto, GraphProto, NodeProto, attribute_proto::AttributeType},
    prelude::{
        DatumType, OutletId, SpecialOps, Symbol, TDim, TVec, Tensor, TractResult, TypedFact,
    },
    tract_hir::internal::{DimLike as _, TractErrorContext as _, TypedOp, bail},
};

use super::{
    OnnxError,
    graph::{Scope, Walk},
    program_op::{Counted, ProgramOp},
    size,
};
use flotilla_program::Op;

/// One node that is being wired.
pub(super) struct Wiring<'a, 'p> {
    /// Its attributes are here.
    pub(super) node: &'a NodeProto,
    /// Version of its operator set.
    pub(super) opset: i64,
    /// Unique, for messages and for the names of what is wired.
    pub(super) name: String,
    pub(super) inputs: &'a [Option<OutletId>],
    pub(super) scope: &'a Scope,
    pub(super) walk: &'a mut Walk<'p>,
    /// Whether everything that is wired is BF16; else only the results are, where an operand is.
    pub(super) rounds_steps: bool,
}

/// Wires an operator: one outlet per output of the node, in order; trailing ones may be left out.
pub(super) type Wire = fn(&mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>>;

impl Wiring<'_, '_> {
    /// An operand that must be there.
    pub(super) fn input(&self, index: usize) -> TractResult<OutletId> {
        match self.optional(index) {
            Some(outlet) => Ok(outlet),
            None => bail!("operand {index} is missing"),
        }
    }

    /// An operand that may be left out.
    pub(super) fn optional(&self, index: usize) -> Option<OutletId> {
        self.inputs.get(index).copied().flatten()
    }

    /// How many operands there are, left out ones included.
    pub(super) fn inputs_len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether an output of the node has a name, that is, whether somebody may want it.
    pub(super) fn wants(&self, output: usize) -> bool {
        self.node.output.get(output).is_some_and(|name| !name.is_empty())
    }

    pub(super) fn fact(&self, outlet: OutletId) -> TypedFact {
        // Outlets come from this graph alone, so that each has a fact.
        self.walk
            .target
            .outlet_fact(outlet)
            .cloned()
            .unwrap_or_else(|_| TypedFact::dt_scalar(DatumType::F32))
    }

    pub(super) fn dtype(&self, outlet: OutletId) -> DatumType {
        self.fact(outlet).datum_type
    }

    pub(super) fn shape(&self, outlet: OutletId) -> Vec<TDim> {
        self.fact(outlet).shape.to_tvec().into_vec()
    }

    pub(super) fn rank(&self, outlet: OutletId) -> usize {
        self.fact(outlet).rank()
    }

    /// The shape as numbers.
    pub(super) fn fixed_shape(&self, outlet: OutletId) -> TractResult<Vec<usize>> {
        self.shape(outlet)
            .iter()
            .map(|dim| {
                dim.to_usize().with_context(|| format!("dimension {dim} must be a number here"))
            })
            .collect()
    }

    /// The value, where it is known now.
    pub(super) fn constant(&self, outlet: OutletId) -> Option<Arc<Tensor>> {
        self.fact(outlet).konst
    }

    /// The elements of an operand that must be known when the model is loaded, as numbers.
    pub(super) fn known_i64s(&self, index: usize) -> TractResult<Vec<i64>> {
        self.known_dims(index)?
            .iter()
            .map(|dim| {
                dim.to_i64().with_context(|| {
                    format!("operand {index} is {dim}, which must be a number here")
                })
            })
            .collect()
    }

    /// The same as dimensions, which may have symbols in them.
    pub(super) fn known_dims(&self, index: usize) -> TractResult<Vec<TDim>> {
        let tensor = self.known(index)?;
        if tensor.datum_type() == DatumType::I64 {
            // tract's cast would take the lower 32 bits.
            let numbers = tensor.try_as_plain_ram()?.as_slice::<i64>()?;
            return Ok(numbers.iter().map(|&number| TDim::Val(number)).collect());
        }
        let dims = tensor.cast_to::<TDim>()?;
        Ok(dims.try_as_plain_ram()?.as_slice::<TDim>()?.to_vec())
    }

    /// The same as floats.
    pub(super) fn known_f32s(&self, index: usize) -> TractResult<Vec<f32>> {
        let tensor = self.known(index)?;
        let floats = tensor.cast_to::<f32>()?;
        Ok(floats.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
    }

    fn known(&self, index: usize) -> TractResult<Arc<Tensor>> {
        let outlet = self.input(index)?;
        let name = self.node.input.get(index).map_or("", String::as_str);
        self.constant(outlet).with_context(|| {
            format!(
                "the value of {name:?} decides shapes and must be known when the model is loaded"
            )
        })
    }

    /// An axis counted from the front.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> TractResult<usize> {
        let from_front = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(from_front) {
            Ok(index) if index < rank || (rank == 0 && index == 0) => Ok(index),
            _ => bail!("axis {axis} is not one of {rank}"),
        }
    }

    /// A text attribute.
    pub(super) fn text(&self, name: &str) -> TractResult<Option<&str>> {
        self.node.get_attr_opt::<&str>(name)
    }

    /// The graph in an attribute.
    pub(super) fn graph(&self, name: &str) -> TractResult<&GraphProto> {
        let found = self.node.attribute.iter().find(|attribute| attribute.name == name);
        found
            .and_then(|attribute| attribute.g.as_ref())
            .with_context(|| format!("there is no graph {name:?}"))
    }

    /// Wires the graph of an attribute here, with these outlets as its inputs; `turn` tells one unrolled turn from another.
    pub(super) fn subgraph(
        &mut self,
        name: &str,
        inputs: &[OutletId],
        turn: usize,
    ) -> TractResult<Vec<OutletId>> {
        let graph = self.graph(name)?.clone();
        let label = format!("{}/{name}{turn}", self.name);
        Ok(self.walk.subgraph(&graph, inputs, self.scope, &label)?)
    }

    /// Puts a typed operator into the graph; its one result.
    pub(super) fn wire(
        &mut self,
        op: impl Into<Box<dyn TypedOp>>,
        inputs: &[OutletId],
    ) -> TractResult<OutletId> {
        Ok(self.wires(op, inputs)?[0])
    }

    /// Puts a typed operator into the graph; all of its results.
    pub(super) fn wires(
        &mut self,
        op: impl Into<Box<dyn TypedOp>>,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let op = op.into();
        let operands: TVec<TypedFact> = inputs.iter().map(|&outlet| self.fact(outlet)).collect();
        // An operator that does not fit its operands is told of by the wiring itself.
        for result in op.output_facts(&operands.iter().collect::<TVec<_>>()).iter().flatten() {
            size::check(result)?;
        }
        let name = self.walk.unique(&self.name);
        let outlets = self.walk.target.wire_node(name, op, inputs)?;
        if !self.rounds_steps {
            return Ok(outlets);
        }
        outlets.into_iter().map(|outlet| self.walk.rounded_bf16(&self.name, outlet)).collect()
    }

    /// Puts one of our own operators into the graph.
    pub(super) fn program_op(
        &mut self,
        op: Op,
        inputs: &[OutletId],
        dtype: DatumType,
        shape: Vec<TDim>,
    ) -> TractResult<OutletId> {
        self.wire(ProgramOp { op: Arc::new(op), dtype, shape: shape.into() }, inputs)
    }

    /// A dimension that a run's data decide.
    pub(super) fn count_symbol(&mut self) -> Symbol {
        self.walk.target.symbols.new_with_prefix("count")
    }

    /// `x` cut to `shape`, in which a symbol stands for what `count` becomes, `most` being the most that it can become.
    pub(super) fn cut(
        &mut self,
        x: OutletId,
        count: OutletId,
        symbol: &Symbol,
        most: &TDim,
        shape: Vec<TDim>,
    ) -> TractResult<OutletId> {
        let (symbol, most) = (symbol.clone(), most.clone());
        self.wire(Counted { symbol, most, shape: shape.into() }, &[x, count])
    }

    /// A constant.
    pub(super) fn tensor(&mut self, tensor: Tensor) -> TractResult<OutletId> {
        let name = format!("{}.constant", self.name);
        let outlet = self.walk.constant(&name, tensor)?;
        if self.rounds_steps { self.walk.rounded_bf16(&name, outlet) } else { Ok(outlet) }
    }

    /// A constant of rank 0.
    pub(super) fn scalar(&mut self, dtype: DatumType, value: f64) -> TractResult<OutletId> {
        let tensor = Tensor::from(value).cast_to_dt(dtype)?.into_owned();
        self.tensor(tensor)
    }

    /// Wires another ONNX operator of the default domain, with attributes that are integers.
    pub(super) fn onnx(
        &mut self,
        op: &str,
        attributes: &[(&str, i64)],
        inputs: &[Option<OutletId>],
    ) -> TractResult<Vec<OutletId>> {
        self.onnx_with_outputs(op, attributes, inputs, 1)
    }

    /// The same for an operator of which `outputs` results are wanted.
    pub(super) fn onnx_with_outputs(
        &mut self,
        op: &str,
        attributes: &[(&str, i64)],
        inputs: &[Option<OutletId>],
        outputs: usize,
    ) -> TractResult<Vec<OutletId>> {
        let name = |index: usize, is_there: bool| match is_there {
            true => format!("operand{index}"),
            false => String::new(),
        };
        let node = NodeProto {
            name: format!(
                "{}.{op}",
                self.name.strip_prefix(self.scope.prefix()).unwrap_or(&self.name)
            ),
            op_type: op.to_owned(),
            input: inputs
                .iter()
                .enumerate()
                .map(|(index, input)| name(index, input.is_some()))
                .collect(),
            output: (0..outputs).map(|index| format!("result{index}")).collect(),
            attribute: attributes
                .iter()
                .map(|&(name, i)| AttributeProto {
                    name: name.to_owned(),
                    r#type: AttributeType::Int as i32,
                    i,
                    ..AttributeProto::default()
                })
                .collect(),
            ..NodeProto::default()
        };
        self.walk.operator(&node, inputs, self.scope).map_err(|error: OnnxError| error.into())
    }
}
