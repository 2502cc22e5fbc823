//! Sizes that the values of a run's inputs decide, such as a shape that is an input of `Reshape`. Where a backend builds for
//! known sizes, they are computed before it is called.

use flotilla_kernels::Shapes;
use flotilla_program::{Node, Op, Program, Source, SymbolSource, ValueId, dim::Symbol};
use flotilla_protocol::RunError;

use crate::flow::{define, mentioned};

/// Most elements of a value that is computed to decide sizes: enough for a few numbers per dimension, too few for data.
const ELEMENTS_MAX: i64 = 256;

/// By node: whether it computes sizes from the inputs alone.
pub(crate) fn deciding_nodes(program: &Program) -> Vec<bool> {
    let is_small = |value: ValueId| {
        let dims = program.value(value).shape.iter().map(|dim| dim.as_fixed());
        let elements = dims.product::<Option<i64>>();
        elements.is_some_and(|elements| elements <= ELEMENTS_MAX)
    };
    // By value: whether it has few elements that are computed from the inputs alone.
    let mut computable: Vec<bool> = (0..program.values.len() as u32)
        .map(ValueId)
        .map(|value| program.value(value).source != Source::Node && is_small(value))
        .collect();
    for node in program.nodes.iter().filter(|node| is_arithmetic(&node.op)) {
        let mut symbols = Vec::new();
        mentioned(program, node, &mut symbols);
        let mut symbols = symbols.into_iter().map(|symbol| &program.symbols[symbol.0 as usize]);
        let is_computable = node.inputs.iter().all(|input| computable[input.index()])
            && symbols.all(|info| match info.source {
                SymbolSource::Input => true,
                SymbolSource::Element { value, .. } => computable[value.index()],
                SymbolSource::Extent { .. } => false,
            });
        for output in &node.outputs {
            computable[output.index()] = is_computable && is_small(*output);
        }
    }
    let mut needed = vec![false; program.values.len()];
    for info in &program.symbols {
        if let SymbolSource::Element { value, .. } = info.source {
            needed[value.index()] = computable[value.index()];
        }
    }
    let mut deciding = vec![false; program.nodes.len()];
    for (at, node) in program.nodes.iter().enumerate().rev() {
        if node.outputs.iter().any(|output| needed[output.index()]) {
            deciding[at] = true;
            node.inputs.iter().for_each(|input| needed[input.index()] = true);
        }
    }
    deciding
}

/// Whether an operator is used for shape arithmetic.
fn is_arithmetic(op: &Op) -> bool {
    matches!(
        op,
        Op::Elementwise(_)
            | Op::Reduce(_)
            | Op::ArgReduce(_)
            | Op::Cumulative(_)
            | Op::FirstAbove
            | Op::Gather(_)
            | Op::GatherElements(_)
            | Op::GatherNd(_)
            | Op::ScatterElements(_)
            | Op::ScatterNd(_)
            | Op::Transpose(_)
            | Op::Reshape
            | Op::Broadcast
            | Op::Concat(_)
            | Op::Slice(_)
            | Op::Pad(_)
            | Op::Range(_)
            | Op::Sizes(_)
    )
}

/// Whether a symbol is an element of an input, known before the first node runs.
pub(crate) fn is_input_element(program: &Program, symbol: Symbol) -> bool {
    match program.symbols[symbol.0 as usize].source {
        SymbolSource::Input => false,
        SymbolSource::Element { value, .. } => program.value(value).source == Source::Input,
        SymbolSource::Extent { .. } => false,
    }
}

/// Sets the symbols that elements of the inputs decide, and the shapes that follow from them. `inputs` are in the order of
/// [`Program::given`].
///
/// # Errors
/// A check of the program that does not hold, or a shape that is not possible.
pub(crate) fn define_input_elements(
    program: &Program,
    shapes: &mut Shapes,
    inputs: &[Vec<u32>],
) -> Result<(), RunError> {
    let symbols = (0..program.symbols.len() as u32).map(Symbol);
    let symbols: Vec<Symbol> =
        symbols.filter(|symbol| is_input_element(program, *symbol)).collect();
    if symbols.is_empty() {
        return Ok(());
    }
    let given: Vec<ValueId> = program.given().collect();
    let words = |value: ValueId| {
        let at = given.iter().position(|given| *given == value)?;
        Some(inputs[at].as_slice())
    };
    // Values that only other parts of the whole program read are not inputs of this one.
    let here = symbols.into_iter().filter(|symbol| {
        matches!(program.symbols[symbol.0 as usize].source,
            SymbolSource::Element { value, .. } if given.contains(&value))
    });
    for symbol in here {
        define(program, shapes, symbol, words)?;
    }
    for node in &program.nodes {
        settle(program, shapes, node)?;
    }
    Ok(())
}

fn settle(program: &Program, shapes: &mut Shapes, node: &Node) -> Result<(), RunError> {
    for value in node.inputs.iter().chain(&node.outputs) {
        if shapes.has_symbols(&program.value(*value).shape) {
            let failed = |reason| RunError::Node { node: node.name.clone(), reason };
            shapes.ensure(program, *value).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flotilla_program::{Binary, Expr, Port, Step, SymbolInfo, Value, dim::Dim};
    use flotilla_tensor::DType;

    use super::*;

    fn value(dtype: DType, shape: Vec<Dim>, source: Source) -> Value {
        Value { dtype, shape, source }
    }

    fn twice() -> Op {
        let steps = vec![Step::Input(0), Step::Binary(Binary::Add, 0, 0)];
        Op::Elementwise(Expr { steps })
    }

    /// Reshapes `x` to twice the shape `want`, after doubling `x` itself.
    fn program(want: Vec<Dim>) -> Program {
        let decided = || Dim::Symbol(Symbol(0));
        let port = |name: &str, dtype, value| Port {
            name: name.to_owned(),
            dtype,
            value: ValueId(value),
            high: None,
        };
        let node = |name: &str, op, input, output| Node {
            name: name.to_owned(),
            op,
            inputs: vec![ValueId(input)],
            outputs: vec![ValueId(output)],
        };
        let source = SymbolSource::Element { value: ValueId(2), index: 0 };
        Program {
            symbols: vec![SymbolInfo { name: "count".to_owned(), source }],
            values: vec![
                value(DType::F32, vec![Dim::Fixed(2), Dim::Fixed(3)], Source::Input),
                value(DType::I32, want.clone(), Source::Input),
                value(DType::I32, want, Source::Node),
                value(DType::F32, vec![Dim::Fixed(2), Dim::Fixed(3)], Source::Node),
                value(DType::F32, vec![decided()], Source::Node),
            ],
            nodes: vec![
                node("double the size", twice(), 1, 2),
                node("double the data", twice(), 0, 3),
                node("reshape", Op::Reshape, 3, 4),
            ],
            inputs: vec![port("x", DType::F32, 0), port("want", DType::I32, 1)],
            outputs: vec![port("y", DType::F32, 4)],
            ..Program::new("sizes")
        }
    }

    #[test]
    fn sizes_that_inputs_decide_are_computed_first() {
        let program = program(vec![Dim::Fixed(1)]);
        program.check().expect("a sound program");
        assert_eq!(deciding_nodes(&program), [true, false, false]);
    }

    #[test]
    fn many_elements_decide_no_sizes() {
        let program = program(vec![Dim::Fixed(ELEMENTS_MAX + 1)]);
        assert_eq!(deciding_nodes(&program), [false; 3]);
    }

    #[test]
    fn the_part_behind_knows_its_sizes() {
        let program = program(vec![Dim::Fixed(1)]);
        let parts = crate::split::split(&program, &deciding_nodes(&program));
        let [first, rest] = parts.as_slice() else { panic!("{} parts", parts.len()) };
        assert!(first.elsewhere && !rest.elsewhere);
        assert_eq!(first.program.nodes.len(), 1);
        assert!(
            is_input_element(&rest.program, Symbol(0)) && !is_input_element(&program, Symbol(0))
        );

        let mut shapes = Shapes::new(&rest.program, vec![None]).expect("shapes");
        assert!(!shapes.is_known(ValueId(4)));
        let inputs: Vec<Vec<u32>> = rest
            .program
            .given()
            .map(|value| vec![if value == ValueId(2) { 6 } else { 0 }; 6])
            .collect();
        define_input_elements(&rest.program, &mut shapes, &inputs).expect("sizes");
        assert_eq!(shapes.of(ValueId(4)), [6]);
    }
}
