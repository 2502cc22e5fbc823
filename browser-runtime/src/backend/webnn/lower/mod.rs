//! Lowers a program to WebNN's operators, for one set of shapes.

mod elementwise;
mod lines;
mod moves;
mod products;
mod windows;

use flotilla_program::{Node, Op, Program, SymbolSource, ValueId, dim::Symbol};
use flotilla_protocol::RefusedNode;
use flotilla_tensor::DType;

use super::{
    draft::{Draft, Id, Operand, Type, check_elements},
    limits::Limits,
};
use crate::{deciding::is_input_element, flow::sized_by, weights::Constants};
use flotilla_kernels::Shapes;

/// A program that WebNN takes.
#[derive(Debug)]
pub(crate) struct Lowered {
    /// Every operand, each after its own operands.
    pub(crate) operands: Vec<Operand>,
    /// The operands of [`Program::results`], in order; none for a result without elements.
    pub(crate) results: Vec<Option<Id>>,
}

/// The state of lowering.
struct Lowering<'a> {
    program: &'a Program,
    constants: &'a Constants,
    shapes: &'a Shapes,
    draft: Draft<'a>,
    ids: Vec<Option<Id>>,
}

/// The type that holds a storage type's values. Unsigned words are signed ones with the same bits, because WebNN computes
/// little with unsigned numbers.
pub(crate) fn type_of(dtype: DType) -> Type {
    match dtype.storage() {
        DType::F32 => Type::Float32,
        DType::Bool => Type::Uint8,
        _ => Type::Int32,
    }
}

/// Lowers a whole program.
///
/// # Errors
/// The first node that is refused.
pub(crate) fn lower(
    program: &Program,
    constants: &Constants,
    shapes: &Shapes,
    limits: &Limits,
) -> Result<Lowered, RefusedNode> {
    let mut lowering = Lowering::new(program, constants, shapes, limits);
    let ports = |reason: String| RefusedNode {
        node: program.name.clone(),
        op: "inputs and outputs".to_owned(),
        reason,
    };
    for (index, value) in program.given().enumerate() {
        lowering.input(index, value).map_err(ports)?;
    }
    for node in &program.nodes {
        lowering.node(node).map_err(|reason| refused(node, reason))?;
    }
    let results = program.results().map(|value| match lowering.shape(value)?.contains(&0) {
        true => Ok(None),
        false => lowering.operand(value).map(Some),
    });
    let results = results.collect::<Result<_, _>>().map_err(ports)?;
    Ok(Lowered { operands: lowering.draft.into_operands(), results })
}

/// The nodes that WebNN does not take, each checked by itself, as far as its sizes are known. Without shapes, the nodes that
/// it takes in no size.
pub(crate) fn refused_nodes(
    program: &Program,
    constants: &Constants,
    shapes: Option<&Shapes>,
    limits: &Limits,
) -> Vec<(usize, RefusedNode)> {
    let reason = |node: &Node| {
        if let Some(reason) = absent(&node.op) {
            return Err(reason.to_owned());
        }
        let symbols = sized_by(program, node);
        let is_early = |symbol: &Symbol| {
            is_input_element(program, *symbol)
                || program.symbols[symbol.0 as usize].source == SymbolSource::Input
        };
        if !symbols.iter().all(is_early) {
            return Err(DECIDED.to_owned());
        }
        let shapes = shapes.filter(|shapes| {
            symbols.iter().all(|symbol| shapes.symbols()[symbol.0 as usize].is_some())
        });
        shapes.map_or(Ok(()), |shapes| alone(program, constants, shapes, limits, node))
    };
    let nodes = program.nodes.iter().enumerate();
    nodes.filter_map(|(at, node)| Some((at, refused(node, reason(node).err()?)))).collect()
}

/// Checks one node by itself.
fn alone(
    program: &Program,
    constants: &Constants,
    shapes: &Shapes,
    limits: &Limits,
    node: &Node,
) -> Result<(), String> {
    let mut lowering = Lowering::new(program, constants, shapes, limits);
    for (index, &value) in node.inputs.iter().enumerate() {
        if constants.of(value).is_none() && lowering.ids[value.index()].is_none() {
            lowering.input(index, value)?;
        }
    }
    lowering.node(node)
}

/// The nodes whose sizes depend on the values of a run's inputs.
#[cfg(target_arch = "wasm32")]
pub(crate) fn input_sized_nodes(program: &Program) -> Vec<(usize, RefusedNode)> {
    let is_waiting = |node: &Node| {
        sized_by(program, node).into_iter().any(|symbol| is_input_element(program, symbol))
    };
    let nodes = program.nodes.iter().enumerate().filter(|(_, node)| is_waiting(node));
    nodes.map(|(at, node)| (at, refused(node, LATE.to_owned()))).collect()
}

/// Why a node runs elsewhere, if that is allowed: WebNN could check it only with a run's inputs.
#[cfg(target_arch = "wasm32")]
const LATE: &str =
    "the inputs of a run say its sizes, and only then WebNN says whether it takes it";

/// Why a node is refused whose sizes are not known when a graph is built.
const DECIDED: &str = "its sizes are known only while it runs, and WebNN has to know them before";

/// Why WebNN does not take an operator in any size.
fn absent(op: &Op) -> Option<&'static str> {
    match op {
        Op::If(_) | Op::Loop(_) => Some("WebNN has no control flow"),
        Op::LinearAttention(_)
        | Op::DeformableColumns(_)
        | Op::GridSample(_)
        | Op::RoiAlign(_)
        | Op::Dft(_)
        | Op::Triangular
        | Op::NgramCounts(_)
        | Op::RowRanks
        | Op::Suppress(_)
        | Op::Trees(_) => Some("WebNN has no such operator"),
        // WebNN's own recurrent layers include the products of the input; a program has these before the layer.
        Op::Recurrent(_) => Some("recurrent layers are not brought to WebNN"),
        _ => None,
    }
}

fn refused(node: &Node, reason: String) -> RefusedNode {
    RefusedNode { node: node.name.clone(), op: node.op.name().to_owned(), reason }
}

/// Sizes as WebNN takes them.
fn sizes(shape: &[usize]) -> Result<Vec<u32>, String> {
    shape
        .iter()
        .map(|&size| u32::try_from(size).map_err(|_| format!("a dimension of {size} elements")))
        .collect()
}

impl<'a> Lowering<'a> {
    fn new(
        program: &'a Program,
        constants: &'a Constants,
        shapes: &'a Shapes,
        limits: &'a Limits,
    ) -> Lowering<'a> {
        let ids = vec![None; program.values.len()];
        Lowering { program, constants, shapes, draft: Draft::new(limits), ids }
    }

    fn input(&mut self, index: usize, value: ValueId) -> Result<(), String> {
        let shape = self.shape(value)?;
        if shape.contains(&0) {
            return Ok(());
        }
        let id = self.draft.input(index, type_of(self.dtype(value)), &shape)?;
        self.ids[value.index()] = Some(id);
        Ok(())
    }

    fn dtype(&self, value: ValueId) -> DType {
        // Narrow constants are widened when they are loaded.
        self.program.value(value).dtype.storage()
    }

    fn shape(&self, value: ValueId) -> Result<Vec<u32>, String> {
        if !self.shapes.is_known(value) {
            return Err(DECIDED.to_owned());
        }
        sizes(self.shapes.of(value))
    }

    /// The operand of a value; a constant becomes one when it is first used.
    fn operand(&mut self, value: ValueId) -> Result<Id, String> {
        if let Some(id) = self.ids[value.index()] {
            return Ok(id);
        }
        let shape = self.shape(value)?;
        check_elements(&shape)?;
        let constant = self.constants.of(value).ok_or("a value that nothing computes")?;
        let id = self.draft.constant(constant, type_of(self.dtype(value)), &shape)?;
        self.ids[value.index()] = Some(id);
        Ok(id)
    }

    /// Every operand of a node, in order.
    fn operands(&mut self, node: &Node) -> Result<Vec<Id>, String> {
        node.inputs.iter().map(|&value| self.operand(value)).collect()
    }

    fn node(&mut self, node: &Node) -> Result<(), String> {
        if let Some(reason) = absent(&node.op) {
            return Err(reason.to_owned());
        }
        let output = node.outputs[0];
        let want = self.shape(output)?;
        // There is nothing to compute. An operator that needs this value is refused, unless it does not use empty operands.
        if want.contains(&0) {
            return Ok(());
        }
        let id = self.operator(node, &want)?;
        if self.draft.shape(id) != want {
            return Err(format!("it would give {:?}, not {want:?}", self.draft.shape(id)));
        }
        self.ids[output.index()] = Some(id);
        Ok(())
    }

    /// What a node computes; `want` is the shape of its result.
    fn operator(&mut self, node: &Node, want: &[u32]) -> Result<Id, String> {
        match &node.op {
            Op::MatMul(op) => self.matmul(node, op),
            Op::Attention(op) => self.attention(node, op),
            Op::LayerNorm(op) => self.layer_norm(node, op),
            Op::Softmax(op) => {
                let x = self.operand(node.inputs[0])?;
                self.draft.softmax(x, op.axis)
            }
            Op::Elementwise(expr) => self.elementwise(node, expr, want),
            Op::Reduce(op) => self.reduce(node, op),
            Op::ArgReduce(op) => self.arg_reduce(node, op),
            Op::Cumulative(op) => self.cumulative(node, op),
            Op::TopK(op) => self.top_k(node, op, want),
            Op::FirstAbove => self.first_above(node, want),
            Op::Resample(op) => self.resample(node, op),
            Op::Gather(op) => {
                let operands = self.operands(node)?;
                let data = match op.quantized {
                    Some(quantized) => self.dequantized(&quantized, operands[0], &operands[2..])?,
                    None => operands[0],
                };
                self.draft.gather(data, operands[1], op.axis)
            }
            Op::Dequantize(quantized) => {
                let operands = self.operands(node)?;
                self.dequantized(quantized, operands[0], &operands[1..])
            }
            Op::GatherElements(op) => self.gather_elements(node, op),
            Op::GatherNd(op) => self.gather_nd(node, op),
            Op::ScatterElements(op) => self.scatter_elements(node, op),
            Op::ScatterNd(op) => self.scatter_nd(node, op),
            Op::Transpose(op) => {
                let x = self.operand(node.inputs[0])?;
                self.draft.transpose(x, &op.perm)
            }
            Op::Reshape => {
                let x = self.operand(node.inputs[0])?;
                self.draft.reshape(x, want)
            }
            Op::Broadcast => {
                let x = self.operand(node.inputs[0])?;
                self.draft.expand(x, want)
            }
            Op::Concat(op) => self.concat(node, op),
            Op::Slice(op) => self.slice(node, op, want),
            Op::Range(op) => self.range(op, want),
            Op::Sizes(op) => self.sizes(op, want),
            Op::Pad(op) => self.pad(node, op, want),
            Op::Conv(op) => self.conv(node, op, want),
            Op::Pool(op) => self.pool(node, op, want),
            other => Err(absent(other).unwrap_or("nothing does it in WebNN").to_owned()),
        }
    }
}
