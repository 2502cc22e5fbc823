//! Execution of a program in steps: sequences of nodes, reads of computed numbers, and regions.

use std::{collections::BTreeMap, ops::Range};

use flotilla_kernels::{Shapes, kernel};
use flotilla_program::{
    Node, Op, Program, Source, SymbolSource, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_protocol::RunError;

/// Computed once per program.
pub(crate) struct Flow {
    /// The program's nodes, followed by its regions.
    blocks: Vec<Block>,
    /// By value: the value whose memory it uses.
    roots: Vec<ValueId>,
    /// Symbols that a value's dimensions decide.
    extents: BTreeMap<ValueId, Vec<(usize, Symbol)>>,
}

/// Nodes that are executed in order.
#[derive(Default)]
struct Block {
    steps: Vec<Step>,
    /// By node: roots that no later node needs.
    dying: Vec<Vec<ValueId>>,
    /// Values that it makes.
    values: Vec<ValueId>,
    /// Those of them whose shapes may differ between iterations of a loop.
    unsettled: Vec<ValueId>,
    /// Symbols that these values decide.
    symbols: Vec<Symbol>,
}

/// A step of a block.
enum Step {
    /// Nodes that need nothing but values and sizes known before the step.
    Nodes(Range<usize>),
    /// Symbols whose values are read from elements of computed values.
    Read(Vec<Symbol>),
    /// A node with regions.
    Control(usize),
}

/// A step's nodes.
#[derive(Clone, Copy)]
pub(crate) struct Stretch<'a> {
    /// Block and first node.
    pub(crate) id: (usize, usize),
    pub(crate) nodes: &'a [Node],
    /// By node: roots that no later node needs.
    pub(crate) dying: &'a [Vec<ValueId>],
}

/// Holds a run's values and executes nodes.
pub(crate) trait Machine {
    /// A value's memory.
    type Memory: Clone;

    /// Executes nodes and releases values after their last use.
    fn compute(&mut self, shapes: &Shapes, stretch: Stretch<'_>) -> Result<(), RunError>;

    /// The words of values.
    async fn read(
        &mut self,
        shapes: &Shapes,
        values: &[ValueId],
    ) -> Result<Vec<Vec<u32>>, RunError>;

    /// The memory of a root.
    fn memory(&self, root: ValueId) -> Option<Self::Memory>;

    /// Gives a root its memory.
    fn set(&mut self, root: ValueId, memory: Option<Self::Memory>);

    /// Memory that holds one word.
    fn word(&mut self, word: u32) -> Self::Memory;

    /// Memory of several values joined one after the other, each of this many elements.
    fn joined(
        &mut self,
        parts: Vec<Self::Memory>,
        elements: usize,
    ) -> Result<Self::Memory, RunError>;
}

impl Flow {
    pub(crate) fn new(program: &Program) -> Flow {
        let mut flow = Flow {
            blocks: Vec::new(),
            roots: (0..program.values.len() as u32).map(ValueId).collect(),
            extents: BTreeMap::new(),
        };
        for (index, info) in program.symbols.iter().enumerate() {
            if let SymbolSource::Extent { value, axis } = info.source {
                let decided = (axis as usize, Symbol(index as u32));
                flow.extents.entry(value).or_default().push(decided);
            }
        }
        let mut homes = Homes::new(program);
        for block in 0..=program.regions.len() {
            flow.roots_of(nodes_of(program, block));
        }
        homes.look(program);
        flow.blocks = (0..=program.regions.len())
            .map(|block| Block {
                steps: steps(program, block, &homes),
                ..flow.block(program, block, &homes)
            })
            .collect();
        flow
    }

    /// The value whose memory this one uses.
    pub(crate) fn root(&self, value: ValueId) -> ValueId {
        self.roots[value.index()]
    }

    /// Whether only the shapes of a run's inputs decide what is executed.
    pub(crate) fn is_straight(&self) -> bool {
        matches!(self.blocks[0].steps.as_slice(), [] | [Step::Nodes(_)])
    }

    /// Every stretch of nodes of a program.
    pub(crate) fn stretches<'a>(
        &'a self,
        program: &'a Program,
    ) -> impl Iterator<Item = Stretch<'a>> + 'a {
        let blocks = self.blocks.iter().enumerate();
        blocks.flat_map(move |(block, found)| {
            found.steps.iter().filter_map(move |step| match step {
                Step::Nodes(range) => Some(self.stretch(program, block, range)),
                Step::Read(_) | Step::Control(_) => None,
            })
        })
    }

    fn stretch<'a>(
        &'a self,
        program: &'a Program,
        block: usize,
        range: &Range<usize>,
    ) -> Stretch<'a> {
        Stretch {
            id: (block, range.start),
            nodes: &nodes_of(program, block)[range.clone()],
            dying: &self.blocks[block].dying[range.clone()],
        }
    }

    fn roots_of(&mut self, nodes: &[Node]) {
        for node in nodes.iter().filter(|node| kernel(&node.op).is_alias()) {
            self.roots[node.outputs[0].index()] = self.roots[node.inputs[0].index()];
        }
    }

    /// Everything of a block but its steps.
    fn block(&self, program: &Program, block: usize, homes: &Homes) -> Block {
        let nodes = nodes_of(program, block);
        let mut last: BTreeMap<ValueId, Option<usize>> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            let mut touched: Vec<ValueId> = node.inputs.clone();
            touched.extend(&node.outputs);
            for region in node.op.regions() {
                captured(program, region, &mut touched);
            }
            for value in touched {
                last.insert(self.root(value), Some(index));
            }
        }
        let kept: Vec<ValueId> = match block.checked_sub(1) {
            None => program.results().collect(),
            Some(region) => program.regions[region].results.clone(),
        };
        let decide = program.symbols.iter().filter_map(|info| match info.source {
            SymbolSource::Element { value, .. } => Some(value),
            SymbolSource::Input | SymbolSource::Extent { .. } => None,
        });
        for value in kept.into_iter().chain(decide) {
            last.insert(self.root(value), None);
        }
        let mut dying = vec![Vec::new(); nodes.len()];
        for (root, last) in last {
            // Constants stay for the next run; values from outside of a region are needed again.
            let is_own = homes.of(root) == block
                && !matches!(program.value(root).source, Source::Constant(_));
            if let Some(last) = last.filter(|_| is_own) {
                dying[last].push(root);
            }
        }
        let made = program.values.iter().enumerate().filter_map(|(index, value)| {
            let id = ValueId(index as u32);
            (matches!(value.source, Source::Node) && homes.of(id) == block).then_some(id)
        });
        let values: Vec<ValueId> = made.collect();
        let symbols = (0..program.symbols.len() as u32).map(Symbol);
        let symbols = symbols.filter(|symbol| match program.symbols[symbol.0 as usize].source {
            SymbolSource::Input => false,
            SymbolSource::Element { value, .. } | SymbolSource::Extent { value, .. } => {
                values.binary_search(&value).is_ok()
            }
        });
        let symbols: Vec<Symbol> = symbols.collect();
        let is_unsettled = |value: &ValueId| {
            let shape = &program.value(*value).shape;
            shape.iter().flat_map(Dim::symbols).any(|symbol| symbols.contains(&symbol))
        };
        let unsettled = values.iter().copied().filter(is_unsettled).collect();
        Block { steps: Vec::new(), dying, values, unsettled, symbols }
    }
}

/// The nodes of a block.
pub(crate) fn nodes_of(program: &Program, block: usize) -> &[Node] {
    match block.checked_sub(1) {
        None => &program.nodes,
        Some(region) => &program.regions[region].nodes,
    }
}

/// The values that a region's nodes and results read, nested regions included.
fn captured(program: &Program, region: u32, into: &mut Vec<ValueId>) {
    let region = &program.regions[region as usize];
    into.extend(&region.results);
    for node in &region.nodes {
        into.extend(&node.inputs);
        node.op.regions().into_iter().for_each(|region| captured(program, region, into));
    }
}

/// By value: the block in which it is computed; inputs and constants exist from the start.
struct Homes(Vec<usize>);

impl Homes {
    fn new(program: &Program) -> Homes {
        Homes(vec![0; program.values.len()])
    }

    fn look(&mut self, program: &Program) {
        for block in 0..=program.regions.len() {
            let parameters: &[ValueId] = match block.checked_sub(1) {
                None => &[],
                Some(region) => &program.regions[region].parameters,
            };
            let outputs = nodes_of(program, block).iter().flat_map(|node| &node.outputs);
            for value in parameters.iter().chain(outputs) {
                self.0[value.index()] = block;
            }
        }
    }

    fn of(&self, value: ValueId) -> usize {
        self.0[value.index()]
    }
}

/// The symbols in a node's shapes and numbers, and those of its regions.
pub(crate) fn mentioned(program: &Program, node: &Node, into: &mut Vec<Symbol>) {
    let shapes = node.outputs.iter().flat_map(|output| &program.value(*output).shape);
    into.extend(shapes.chain(node.op.dims()).flat_map(Dim::symbols));
    for region in node.op.regions() {
        let region = &program.regions[region as usize];
        let shapes = region.parameters.iter().flat_map(|value| &program.value(*value).shape);
        into.extend(shapes.flat_map(Dim::symbols));
        region.nodes.iter().for_each(|node| mentioned(program, node, into));
    }
}

/// The symbols in the sizes of a node's operands and results and in its numbers.
#[cfg(any(target_arch = "wasm32", test))]
pub(crate) fn sized_by(program: &Program, node: &Node) -> Vec<Symbol> {
    let operands = node.inputs.iter().flat_map(|input| &program.value(*input).shape);
    let mut symbols: Vec<Symbol> = operands.flat_map(Dim::symbols).collect();
    mentioned(program, node, &mut symbols);
    symbols
}

/// The values that must be computed before a node: those that it and its regions read, and those that decide their
/// sizes.
#[cfg(any(target_arch = "wasm32", test))]
pub(crate) fn needs(program: &Program, node: &Node) -> Vec<ValueId> {
    let mut needs = node.inputs.clone();
    node.op.regions().into_iter().for_each(|region| captured(program, region, &mut needs));
    let mut symbols = Vec::new();
    mentioned(program, node, &mut symbols);
    let decided =
        symbols.into_iter().filter_map(|symbol| match program.symbols[symbol.0 as usize].source {
            SymbolSource::Input => None,
            SymbolSource::Element { value, .. } | SymbolSource::Extent { value, .. } => Some(value),
        });
    needs.extend(decided.filter(|value| !node.outputs.contains(value)));
    needs
}

fn steps(program: &Program, block: usize, homes: &Homes) -> Vec<Step> {
    let mut steps = Vec::new();
    // Symbols whose values are computed and were not read, by the value that decides them.
    let mut pending: Vec<Symbol> = Vec::new();
    let decided_by = |value: ValueId| {
        let symbols = program.symbols.iter().enumerate();
        symbols.filter_map(move |(index, info)| match info.source {
            SymbolSource::Element { value: source, .. } if source == value => {
                Some(Symbol(index as u32))
            }
            _ => None,
        })
    };
    match block.checked_sub(1) {
        None => {
            let constants = program.values.iter().enumerate().filter_map(|(index, value)| {
                let is_constant = matches!(value.source, Source::Constant(_));
                is_constant.then_some(ValueId(index as u32))
            });
            // In a part of a program, values that other parts read do not exist.
            let symbols: Vec<Symbol> =
                program.given().chain(constants).flat_map(decided_by).collect();
            if !symbols.is_empty() {
                steps.push(Step::Read(symbols));
            }
        }
        Some(region) => {
            let parameters = program.regions[region].parameters.iter().copied();
            pending.extend(parameters.flat_map(decided_by));
        }
    }
    let mut start = 0;
    let mut end_stretch = |steps: &mut Vec<Step>, end: usize, next: usize| {
        if start < end {
            steps.push(Step::Nodes(start..end));
        }
        start = next;
    };
    let decides = program.symbols.iter().any(|info| info.source != SymbolSource::Input);
    for (index, node) in nodes_of(program, block).iter().enumerate() {
        let mut needed = Vec::new();
        if decides && !pending.is_empty() {
            mentioned(program, node, &mut needed);
        }
        if pending.iter().any(|symbol| needed.contains(symbol)) {
            end_stretch(&mut steps, index, index);
            steps.push(Step::Read(std::mem::take(&mut pending)));
        }
        if matches!(node.op, Op::If(_) | Op::Loop(_)) {
            end_stretch(&mut steps, index, index + 1);
            steps.push(Step::Control(index));
        }
        if decides {
            let own = node.outputs.iter().filter(|output| homes.of(**output) == block);
            pending.extend(own.flat_map(|output| decided_by(*output)));
        }
    }
    let count = nodes_of(program, block).len();
    end_stretch(&mut steps, count, count);
    // A number that no shape needs may still be checked.
    let checked = program.checks.iter().flat_map(|check| [&check.left, &check.right]);
    let checked: Vec<Symbol> = checked.flat_map(Dim::symbols).collect();
    if pending.iter().any(|symbol| checked.contains(symbol)) {
        steps.push(Step::Read(pending));
    }
    steps
}

/// Sets a symbol that an element of a value decides; for a symbol of another kind it does nothing.
///
/// # Errors
/// There is no such element, or a check of the program does not hold.
pub(crate) fn define<'w>(
    program: &Program,
    shapes: &mut Shapes,
    symbol: Symbol,
    words_of: impl Fn(ValueId) -> Option<&'w [u32]>,
) -> Result<(), RunError> {
    let info = &program.symbols[symbol.0 as usize];
    let SymbolSource::Element { value, index } = info.source else { return Ok(()) };
    let word = words_of(value).and_then(|words| words.get(index as usize)).copied();
    let word = word.ok_or_else(|| RunError::Node {
        node: info.name.clone(),
        reason: "the value that decides a size has no such element".to_owned(),
    })?;
    let number = match program.value(value).dtype {
        flotilla_tensor::DType::I32 => i64::from(word as i32),
        _ => i64::from(word),
    };
    shapes.define(program, symbol, number).map_err(|reason| RunError::Inputs { reason })
}

/// Executes a program on a machine that holds its inputs.
pub(crate) async fn execute<M: Machine>(
    flow: &Flow,
    program: &Program,
    shapes: &mut Shapes,
    machine: &mut M,
) -> Result<(), RunError> {
    Execution { flow, program, shapes, machine }.block(0).await
}

struct Execution<'a, M> {
    flow: &'a Flow,
    program: &'a Program,
    shapes: &'a mut Shapes,
    machine: &'a mut M,
}

impl<'a, M: Machine> Execution<'a, M> {
    async fn block(&mut self, block: usize) -> Result<(), RunError> {
        let (flow, program) = (self.flow, self.program);
        for step in &flow.blocks[block].steps {
            match step {
                Step::Nodes(range) => {
                    let stretch = flow.stretch(program, block, range);
                    for node in stretch.nodes {
                        for output in &node.outputs {
                            self.shapes.ensure(program, *output).map_err(failed(node))?;
                        }
                    }
                    self.machine.compute(self.shapes, stretch)?;
                }
                Step::Read(symbols) => self.define(symbols).await?,
                Step::Control(index) => {
                    let node = &nodes_of(program, block)[*index];
                    match &node.op {
                        Op::If(branch) => self.branch(node, [branch.no, branch.yes]).await?,
                        Op::Loop(turns) => self.turns(node, turns.body).await?,
                        _ => return Err(failed(node)("it has no regions".to_owned())),
                    }
                    for root in &flow.blocks[block].dying[*index] {
                        self.machine.set(*root, None);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sets symbols that elements of values decide.
    async fn define(&mut self, symbols: &[Symbol]) -> Result<(), RunError> {
        let mut values = Vec::new();
        for symbol in symbols {
            if let SymbolSource::Element { value, .. } =
                self.program.symbols[symbol.0 as usize].source
                && !values.contains(&value)
            {
                values.push(value);
            }
        }
        let words = self.machine.read(self.shapes, &values).await?;
        let words_of = |value: ValueId| {
            let at = values.iter().position(|other| *other == value)?;
            Some(words[at].as_slice())
        };
        for symbol in symbols {
            define(self.program, self.shapes, *symbol, words_of)?;
        }
        Ok(())
    }

    async fn branch(&mut self, node: &Node, regions: [u32; 2]) -> Result<(), RunError> {
        let condition = self.condition(node.inputs[0]).await?;
        let region = regions[usize::from(condition)];
        Box::pin(self.region(region)).await?;
        let results = self.program.regions[region as usize].results.iter();
        let results: Vec<Passed<M>> =
            results.map(|value| self.pass(node, *value)).collect::<Result<_, _>>()?;
        self.leave(region);
        for (output, (shape, memory)) in node.outputs.iter().zip(results) {
            self.receive(node, *output, shape, memory)?;
        }
        Ok(())
    }

    async fn turns(&mut self, node: &Node, body: u32) -> Result<(), RunError> {
        let program = self.program;
        let region = &program.regions[body as usize];
        let (condition, most) = (node.inputs[0], node.inputs[1]);
        let mut go_on = self.condition(condition).await?;
        let most = self.machine.read(self.shapes, &[most]).await?;
        let most = most[0].first().map_or(0, |&word| word as i32);
        let carried = node.inputs.len() - 2;
        let initial = node.inputs[2..].iter();
        let mut state: Vec<Passed<M>> =
            initial.map(|value| self.pass(node, *value)).collect::<Result<_, _>>()?;
        let mut collected: Vec<Vec<Passed<M>>> = vec![Vec::new(); node.outputs.len() - carried];
        let mut turn = 0;
        while go_on && turn < most {
            let number = self.machine.word(turn as u32);
            self.receive(node, region.parameters[0], Vec::new(), number)?;
            for (parameter, (shape, memory)) in region.parameters[1..].iter().zip(state) {
                self.receive(node, *parameter, shape, memory)?;
            }
            Box::pin(self.region(body)).await?;
            go_on = self.condition(region.results[0]).await?;
            let results = region.results[1..].iter();
            let mut results: Vec<Passed<M>> =
                results.map(|value| self.pass(node, *value)).collect::<Result<_, _>>()?;
            for (all, own) in collected.iter_mut().zip(results.split_off(carried)) {
                all.push(own);
            }
            state = results;
            self.leave(body);
            turn += 1;
        }
        for (output, (shape, memory)) in node.outputs.iter().zip(state) {
            self.receive(node, *output, shape, memory)?;
        }
        for (output, parts) in node.outputs[carried..].iter().zip(collected) {
            let shape = match parts.first() {
                Some((shape, _)) => shape.clone(),
                // No iteration ran, so the size is not known.
                None => {
                    let dims = program.value(*output).shape[1..].iter();
                    let sizes = dims.map(|dim| self.shapes.eval(dim).unwrap_or(0));
                    sizes.map(|size| usize::try_from(size).unwrap_or(0)).collect()
                }
            };
            if let Some((other, _)) = parts.iter().find(|(other, _)| *other != shape) {
                let reason = format!(
                    "iterations give results of different shapes to collect: {shape:?} and {other:?}"
                );
                return Err(failed(node)(reason));
            }
            let whole = [[parts.len()].as_slice(), &shape].concat();
            let parts = parts.into_iter().map(|(_, memory)| memory).collect();
            let memory = self.machine.joined(parts, shape.iter().product())?;
            self.receive(node, *output, whole, memory)?;
        }
        Ok(())
    }

    async fn region(&mut self, region: u32) -> Result<(), RunError> {
        self.block(region as usize + 1).await
    }

    /// Drops the values of a region.
    fn leave(&mut self, region: u32) {
        let block = &self.flow.blocks[region as usize + 1];
        for value in &block.values {
            // A value with another root does not own its memory.
            if self.flow.root(*value) == *value {
                self.machine.set(*value, None);
            }
        }
        self.shapes.forget(&block.symbols, &block.unsettled);
    }

    async fn condition(&mut self, value: ValueId) -> Result<bool, RunError> {
        let words = self.machine.read(self.shapes, &[value]).await?;
        Ok(words[0].first().is_some_and(|&word| word != 0))
    }

    /// A value's shape and memory, to be used for another value.
    fn pass(&self, node: &Node, value: ValueId) -> Result<Passed<M>, RunError> {
        let memory = self.machine.memory(self.flow.root(value));
        let memory =
            memory.ok_or_else(|| failed(node)("its operand was freed already".to_owned()))?;
        Ok((self.shapes.of(value).to_vec(), memory))
    }

    fn receive(
        &mut self,
        node: &Node,
        value: ValueId,
        shape: Vec<usize>,
        memory: M::Memory,
    ) -> Result<(), RunError> {
        for (axis, symbol) in self.flow.extents.get(&value).into_iter().flatten() {
            let size = shape.get(*axis).map_or(0, |&size| size as i64);
            self.shapes.define(self.program, *symbol, size).map_err(failed(node))?;
        }
        self.shapes.resolve(self.program, value).map_err(failed(node))?;
        let want = self.shapes.of(value);
        if want != shape {
            let reason = format!("a value has the shape {shape:?}, {want:?} is needed");
            return Err(failed(node)(reason));
        }
        self.machine.set(value, Some(memory));
        Ok(())
    }
}

/// A value that is passed from one name to another.
type Passed<M> = (Vec<usize>, <M as Machine>::Memory);

fn failed(node: &Node) -> impl Fn(String) -> RunError + use<> {
    let node = node.name.clone();
    move |reason| RunError::Node { node: node.clone(), reason }
}
