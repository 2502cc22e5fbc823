//! Checks whether a program is valid, and binds its symbols to the shapes of a run's inputs.

use std::collections::HashMap;

use flotilla_tensor::WORD_BYTES;

use crate::{
    BlobId, Decoder, Expr, Node, Op, Padding, Program, Source, Step, StepId, SymbolInfo,
    SymbolSource, Value, ValueId,
    dim::{Dim, Symbol},
};

/// Greatest nesting depth of regions; no real program needs more.
const DEPTH_MAX: usize = 32;

/// Why bytes are not a valid program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Not the serialized form.
    #[error("program bytes do not decode: {0}")]
    Decode(#[from] postcard::Error),
    /// Written by another version.
    #[error("program version {got}, this runtime understands {want}")]
    Version {
        /// Version found.
        got: u32,
        /// Version understood.
        want: u32,
    },
    /// A reference to something that does not exist.
    #[error("program is inconsistent at {place}: {what}")]
    Inconsistent {
        /// Node or port.
        place: String,
        /// What is wrong.
        what: String,
    },
}

type Checked = Result<(), ProgramError>;

fn fail(place: impl Into<String>, what: &str) -> Checked {
    Err(ProgramError::Inconsistent { place: place.into(), what: what.to_owned() })
}

impl Program {
    /// Serialized form.
    ///
    /// # Errors
    /// Only if the memory for it cannot be allocated.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ProgramError> {
        Ok(postcard::to_stdvec(self)?)
    }

    /// Reads [`Program::to_bytes`]'s form and checks that every reference in it is valid.
    ///
    /// # Errors
    /// Another version, bytes that do not decode, or references out of range or out of order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Program, ProgramError> {
        let mut decoder = Decoder::new(bytes)?;
        while decoder.step()? {}
        let program = decoder.finish();
        program.check()?;
        Ok(program)
    }

    /// Checks that every reference is valid and every value is computed before it is used.
    ///
    /// # Errors
    /// The first inconsistency.
    pub fn check(&self) -> Result<(), ProgramError> {
        self.check_steps().collect()
    }

    /// [`Program::check`] in steps of some microseconds, between which the caller may do something else. The program is valid if
    /// every step succeeds.
    pub fn check_steps(&self) -> impl Iterator<Item = Result<(), ProgramError>> {
        // The first one of a name counts.
        let blobs: HashMap<BlobId, u64> =
            self.blobs.iter().rev().map(|blob| (blob.id, blob.bytes)).collect();
        let values = self.values.iter().enumerate();
        let values = values.map(move |(index, value)| self.check_value(index, value, &blobs));
        let symbols = self.symbols.iter().map(|info| self.check_symbol(info));
        values.chain(symbols).chain(Walk::new(self))
    }

    fn check_value(&self, index: usize, value: &Value, blobs: &HashMap<BlobId, u64>) -> Checked {
        let place = || format!("value {index}");
        if value.is_narrow() && !matches!(value.source, Source::Constant(_)) {
            return fail(place(), "its type is not a storage type");
        }
        if value.shape.iter().any(|dim| !dim.symbols_below(self.symbols.len())) {
            return fail(place(), "its shape has an unknown symbol");
        }
        let Source::Constant(constant) = value.source else { return Ok(()) };
        let Some(&blob_bytes) = blobs.get(&constant.blob) else {
            return fail(place(), "its blob is not listed");
        };
        if constant.offset.checked_add(constant.bytes).is_none_or(|end| end > blob_bytes) {
            return fail(place(), "it extends beyond its blob");
        }
        let elements = value.shape.iter().try_fold(1u64, |product, dim| {
            product.checked_mul(u64::try_from(dim.as_fixed()?).ok()?)
        });
        let width = constant.dtype.wire_bytes();
        let is_narrow = value.is_narrow() && value.dtype == constant.dtype;
        if !is_narrow && constant.dtype.storage() != value.dtype || width > WORD_BYTES {
            return fail(place(), "its blob holds another type");
        }
        if elements.and_then(|n| n.checked_mul(width as u64)) != Some(constant.bytes) {
            let (bytes, dtype, shape) = (constant.bytes, constant.dtype, &value.shape);
            let what = format!("its {bytes} bytes do not fit {dtype:?} elements of {shape:?}");
            return fail(place(), &what);
        }
        Ok(())
    }

    fn check_symbol(&self, info: &SymbolInfo) -> Checked {
        let fits = match info.source {
            SymbolSource::Input => true,
            SymbolSource::Element { value, index } => {
                self.values.get(value.index()).is_some_and(|value| {
                    let elements: Option<i64> =
                        value.shape.iter().try_fold(1i64, |n, dim| n.checked_mul(dim.as_fixed()?));
                    !value.dtype.is_float()
                        && elements.is_some_and(|elements| i64::from(index) < elements)
                })
            }
            SymbolSource::Extent { value, axis } => self
                .values
                .get(value.index())
                .is_some_and(|value| (axis as usize) < value.shape.len()),
        };
        if fits {
            return Ok(());
        }
        fail(&info.name, "the symbol's value is decided by something that does not exist")
    }

    /// Checks what is neither a value nor a symbol nor a node. `known` says by value whether it exists at the end.
    fn check_rest(&self, known: &[bool]) -> Checked {
        if self.assumptions.iter().any(|assumed| assumed.input as usize >= self.inputs.len()) {
            return fail("assumptions", "one refers to an input that does not exist");
        }
        if self.bounds.iter().any(|bound| bound.input as usize >= self.inputs.len()) {
            return fail("bounds", "one refers to an input that does not exist");
        }
        let symbols = self.symbols.len();
        let below = |dim: &Dim| dim.symbols_below(symbols);
        if !self.checks.iter().all(|check| below(&check.left) && below(&check.right)) {
            return fail("checks", "one has an unknown symbol");
        }
        let is_known = |padding: &Padding| {
            (padding.symbol.0 as usize) < symbols
                && padding.guards.iter().all(|guard| (guard.input as usize) < self.inputs.len())
                && padding.limits.iter().all(|limit| below(&limit.dim))
        };
        if !self.allowed_paddings.iter().all(is_known) {
            return fail("allowed paddings", "one refers to something that does not exist");
        }
        for port in self.inputs.iter().chain(&self.outputs) {
            for value in [Some(port.value), port.high].into_iter().flatten() {
                if known.get(value.index()) != Some(&true) {
                    return fail(&port.name, "the port's value is never computed");
                }
            }
        }
        Ok(())
    }

    /// Symbols' values from the shapes of a run's inputs, in the order of [`Program::inputs`]; `None` for data-dependent
    /// symbols, which the run itself decides.
    ///
    /// # Errors
    /// A wrong number of inputs, a wrong rank, a dimension that differs from the declared one, or a symbol with two
    /// values.
    pub fn bind(&self, shapes: &[&[usize]]) -> Result<Vec<Option<i64>>, BindError> {
        if shapes.len() != self.inputs.len() {
            return Err(BindError::Count { got: shapes.len(), want: self.inputs.len() });
        }
        let mut bound: Vec<Option<i64>> = vec![None; self.symbols.len()];
        let mut binder: Vec<Option<usize>> = vec![None; self.symbols.len()];
        for (at, (port, shape)) in self.inputs.iter().zip(shapes).enumerate() {
            let declared = &self.value(port.value).shape;
            if shape.len() != declared.len() {
                return Err(BindError::Rank {
                    input: port.name.clone(),
                    got: shape.len(),
                    want: declared.len(),
                });
            }
            for (dim, &got) in declared.iter().zip(*shape) {
                let got = got as i64;
                let want = match dim {
                    Dim::Symbol(Symbol(index)) => {
                        let index = *index as usize;
                        binder[index].get_or_insert(at);
                        *bound[index].get_or_insert(got)
                    }
                    dim => dim.eval_with(&|symbol| bound[symbol.0 as usize]).unwrap_or(-1),
                };
                if want != got {
                    let first = match dim {
                        Dim::Symbol(symbol) => binder[symbol.0 as usize]
                            .filter(|&first| first != at)
                            .map(|first| self.inputs[first].name.clone()),
                        _ => None,
                    };
                    return Err(BindError::Dimension {
                        input: port.name.clone(),
                        got,
                        want,
                        name: self.dim_text(dim),
                        first,
                    });
                }
            }
        }
        for (info, value) in self.symbols.iter().zip(&bound) {
            if info.source == SymbolSource::Input && value.is_none() {
                return Err(BindError::Unbound { symbol: info.name.clone() });
            }
        }
        Ok(bound)
    }
}

/// Checks nodes in the order of execution, one per step, and then what is neither a value nor a symbol nor a node.
struct Walk<'p> {
    program: &'p Program,
    known: Vec<bool>,
    /// Regions that belong to a node which was visited.
    used: Vec<bool>,
    /// What is to be done, the next one last.
    tasks: Vec<Task<'p>>,
}

/// A step of a [`Walk`].
enum Task<'p> {
    /// A node, and how deep in regions it lies.
    Node(&'p Node, usize),
    /// The beginning of a node's region.
    Enter(&'p Node, u32, usize),
    /// The end of a node's region.
    Leave(&'p Node, u32),
    /// A node's outputs, after its regions.
    Define(&'p Node),
    /// Everything after the nodes.
    Rest,
}

impl Iterator for Walk<'_> {
    type Item = Checked;

    fn next(&mut self) -> Option<Checked> {
        let checked = match self.tasks.pop()? {
            Task::Node(node, depth) => self.node(node, depth),
            Task::Enter(node, region, depth) => self.enter(node, region, depth),
            Task::Leave(node, region) => self.leave(node, region),
            Task::Define(node) => {
                node.outputs.iter().try_for_each(|output| self.define(*output, &node.name))
            }
            Task::Rest => self.program.check_rest(&self.known),
        };
        if checked.is_err() {
            // What follows relies on it.
            self.tasks.clear();
        }
        Some(checked)
    }
}

impl<'p> Walk<'p> {
    fn new(program: &'p Program) -> Walk<'p> {
        let is_given = |value: &Value| !matches!(value.source, Source::Node);
        let nodes = program.nodes.iter().rev().map(|node| Task::Node(node, 0));
        Walk {
            program,
            known: program.values.iter().map(is_given).collect(),
            used: vec![false; program.regions.len()],
            tasks: [Task::Rest].into_iter().chain(nodes).collect(),
        }
    }

    fn node(&mut self, node: &'p Node, depth: usize) -> Checked {
        for input in &node.inputs {
            self.expect_known(*input, &node.name)?;
        }
        if let Op::Elementwise(expr) = &node.op
            && !expr.is_well_formed(node.inputs.len())
        {
            return fail(&node.name, "its expression refers to a later step");
        }
        if node.op.dims().iter().any(|dim| !dim.symbols_below(self.program.symbols.len())) {
            return fail(&node.name, "it has an unknown symbol");
        }
        self.tasks.push(Task::Define(node));
        let regions = node.op.regions().into_iter().rev();
        self.tasks.extend(regions.map(|region| Task::Enter(node, region, depth)));
        Ok(())
    }

    fn enter(&mut self, node: &'p Node, region: u32, depth: usize) -> Checked {
        let place = &node.name;
        match self.used.get_mut(region as usize) {
            Some(used) if !*used && depth < DEPTH_MAX => *used = true,
            _ => return fail(place, "its region is unknown, used twice or too deep"),
        }
        self.tasks.push(Task::Leave(node, region));
        let region = &self.program.regions[region as usize];
        let (parameters, results) = match &node.op {
            Op::Loop(turns) => {
                let carried = turns.carried as usize;
                if node.inputs.len() != 2 + carried || node.outputs.len() < carried {
                    return fail(
                        place,
                        "its operands and results do not fit its number of carried values",
                    );
                }
                (1 + carried, 1 + node.outputs.len())
            }
            _ if node.inputs.len() == 1 => (0, node.outputs.len()),
            _ => return fail(place, "it has no condition"),
        };
        if region.parameters.len() != parameters || region.results.len() != results {
            return fail(place, "its region has another number of inputs or outputs");
        }
        for parameter in &region.parameters {
            self.define(*parameter, place)?;
        }
        self.tasks.extend(region.nodes.iter().rev().map(|node| Task::Node(node, depth + 1)));
        Ok(())
    }

    fn leave(&mut self, node: &Node, region: u32) -> Checked {
        let region = &self.program.regions[region as usize];
        for result in &region.results {
            self.expect_known(*result, &node.name)?;
        }
        // Values inside a region are not visible outside of it.
        let inside = region.nodes.iter().flat_map(|node| &node.outputs).chain(&region.parameters);
        for value in inside {
            self.known[value.index()] = false;
        }
        Ok(())
    }

    fn expect_known(&self, value: ValueId, place: &str) -> Checked {
        match self.known.get(value.index()) {
            Some(true) => Ok(()),
            _ => fail(place, "an input is not computed before it"),
        }
    }

    fn define(&mut self, value: ValueId, place: &str) -> Checked {
        let is_node = self
            .program
            .values
            .get(value.index())
            .is_some_and(|value| matches!(value.source, Source::Node));
        match self.known.get_mut(value.index()) {
            Some(known) if !*known && is_node => {
                *known = true;
                Ok(())
            }
            _ => fail(place, "an output is unknown or computed twice"),
        }
    }
}

impl Expr {
    fn is_well_formed(&self, inputs: usize) -> bool {
        !self.steps.is_empty()
            && self.steps.iter().enumerate().all(|(index, step)| {
                let earlier = |id: &StepId| (*id as usize) < index;
                match step {
                    Step::Input(input) => (*input as usize) < inputs,
                    Step::Float(_) | Step::Int(_) | Step::Dim(_) => true,
                    Step::Unary(_, a) | Step::Cast(_, a) | Step::Bits(_, a) | Step::Test(_, a) => {
                        earlier(a)
                    }
                    Step::Binary(_, a, b) => earlier(a) && earlier(b),
                    Step::Select(a, b, c) => earlier(a) && earlier(b) && earlier(c),
                }
            })
    }
}

/// Why the shapes of a run's inputs do not fit a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum BindError {
    #[error("{got} inputs given, the program has {want}")]
    Count { got: usize, want: usize },
    #[error("input {input} has {got} dimensions, the program wants {want}")]
    Rank { input: String, got: usize, want: usize },
    #[error(
        "input {input} has a dimension {name} of {got} where {want} is needed{}",
        first.as_ref().map_or(String::new(), |first| format!(", as input {first} has it"))
    )]
    Dimension { input: String, got: i64, want: i64, name: String, first: Option<String> },
    #[error("no input determines the dimension {symbol}")]
    Unbound { symbol: String },
}

#[cfg(test)]
mod tests {
    use flotilla_tensor::DType;

    use super::*;
    use crate::{If, Port, Region};

    /// Value 0 decides between two regions, which compute values 1 and 2; value 3 is the result.
    fn program() -> Program {
        let source = |index| if index == 0 { Source::Input } else { Source::Node };
        let value =
            |index| Value { dtype: DType::I32, shape: vec![Dim::Fixed(1)], source: source(index) };
        let node = |op, output| Node {
            name: format!("node {output}"),
            op,
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(output)],
        };
        let region = |output| Region {
            nodes: vec![node(Op::Reshape, output)],
            results: vec![ValueId(output)],
            ..Region::default()
        };
        let port = |value| Port {
            name: format!("port {value}"),
            dtype: DType::I32,
            value: ValueId(value),
            high: None,
        };
        Program {
            values: (0..4).map(value).collect(),
            nodes: vec![node(Op::If(If { yes: 0, no: 1 }), 3)],
            regions: vec![region(1), region(2)],
            inputs: vec![port(0)],
            outputs: vec![port(3)],
            ..Program::new("branches")
        }
    }

    #[test]
    fn every_value_and_node_is_a_step() {
        let program = program();
        program.check().expect("it is consistent");
        // Two for each node, two for each region, one for the rest.
        assert_eq!(program.check_steps().count(), 4 + 3 * 2 + 2 * 2 + 1);
    }

    #[test]
    fn what_is_inconsistent_is_refused_with_its_place() {
        let refused = |spoil: fn(&mut Program)| {
            let mut program = program();
            spoil(&mut program);
            // All steps, as a caller may take them.
            let errors = program.check_steps().filter_map(Result::err);
            errors.map(|error| error.to_string()).collect::<Vec<_>>()
        };
        let at = "program is inconsistent at";
        let want = |text: &str| vec![format!("{at} {text}")];
        assert_eq!(
            refused(|program| program.outputs[0].value = ValueId(1)),
            want("port 3: the port's value is never computed"),
        );
        assert_eq!(
            refused(|program| program.regions[1].nodes[0].inputs[0] = ValueId(1)),
            want("node 2: an input is not computed before it"),
        );
        assert_eq!(
            refused(|program| program.regions[0].results[0] = ValueId(9)),
            want("node 3: an input is not computed before it"),
        );
        assert_eq!(
            refused(|program| program.nodes[0].op = Op::If(If { yes: 0, no: 0 })),
            want("node 3: its region is unknown, used twice or too deep"),
        );
        assert_eq!(
            refused(|program| program.nodes[0].outputs.push(ValueId(3))),
            want("node 3: its region has another number of inputs or outputs"),
        );
    }
}
