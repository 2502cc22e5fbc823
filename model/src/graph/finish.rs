//! The last step: unused parts are dropped, the rest is renumbered, and constants are packed into blobs.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{Data, Draft, Origin};
use crate::weights::{Packer, Placed, Weights};
use flotilla_kernels::{Signature, kernel};
use flotilla_program::{
    Node, Program, ProgramError, Region, Source, SymbolSource, Value, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_tensor::DType;

/// The parts of a draft that are needed.
struct Live<'d> {
    draft: &'d Draft,
    values: Vec<bool>,
    symbols: Vec<bool>,
    regions: Vec<bool>,
    /// By block (the nodes of no region, then each region's): which nodes are needed.
    nodes: Vec<Vec<bool>>,
}

impl<'d> Live<'d> {
    fn of(draft: &'d Draft) -> Live<'d> {
        let mut live = Live {
            draft,
            values: vec![false; draft.values.len()],
            symbols: vec![false; draft.symbols.len()],
            regions: vec![false; draft.regions.len()],
            nodes: std::iter::once(&draft.nodes)
                .chain(draft.regions.iter().map(|region| &region.nodes))
                .map(|nodes| vec![false; nodes.len()])
                .collect(),
        };
        for value in draft.results() {
            live.value(value);
        }
        // Clients fix the sizes of inputs, whether they are used or not.
        for port in &draft.inputs {
            [Some(port.value), port.high].into_iter().flatten().for_each(|value| live.value(value));
        }
        for check in &draft.decisive {
            live.dims([&check.left, &check.right]);
        }
        live.block(0, &draft.nodes);
        live
    }

    fn value(&mut self, value: ValueId) {
        self.values[value.index()] = true;
        self.dims(&self.draft.value(value).shape);
    }

    fn dims<'a>(&mut self, dims: impl IntoIterator<Item = &'a Dim>) {
        for symbol in dims.into_iter().flat_map(Dim::symbols) {
            if !std::mem::replace(&mut self.symbols[symbol.0 as usize], true) {
                match self.draft.symbols[symbol.0 as usize].source {
                    SymbolSource::Input => {}
                    SymbolSource::Element { value, .. } | SymbolSource::Extent { value, .. } => {
                        self.value(value);
                    }
                }
            }
        }
    }

    /// Processes a block from its end: what a node needs comes before it.
    fn block(&mut self, block: usize, nodes: &'d [Node]) {
        for (index, node) in nodes.iter().enumerate().rev() {
            if !node.outputs.iter().any(|output| self.values[output.index()]) {
                continue;
            }
            self.nodes[block][index] = true;
            node.inputs.iter().chain(&node.outputs).for_each(|value| self.value(*value));
            self.dims(node.op.dims());
            for region in node.op.regions() {
                self.regions[region as usize] = true;
                let Region { parameters, nodes, results } = &self.draft.regions[region as usize];
                parameters.iter().chain(results).for_each(|value| self.value(*value));
                self.block(region as usize + 1, nodes);
            }
        }
    }
}

/// Removes nodes that nothing depends on, and the data of constants that no node reads.
pub(crate) fn drop_dead_nodes(draft: &mut Draft) {
    let Live { values, nodes, regions, .. } = Live::of(draft);
    let mut keep = nodes.into_iter();
    let blocks = std::iter::once(&mut draft.nodes)
        .chain(draft.regions.iter_mut().map(|region| &mut region.nodes));
    for nodes in blocks {
        let mut keep = keep.next().unwrap_or_default().into_iter();
        nodes.retain(|_| keep.next().unwrap_or(false));
    }
    for (region, live) in draft.regions.iter_mut().zip(regions) {
        if !live {
            *region = Region::default();
        }
    }
    for (value, live) in draft.values.iter_mut().zip(values) {
        if !live && matches!(value.origin, Origin::Constant(_)) {
            value.origin = Origin::Constant(Data::new(value.dtype, Vec::new()));
        }
    }
}

/// New numbers of the values that are kept, in the order of execution.
#[derive(Default)]
struct Numbers {
    values: BTreeMap<ValueId, ValueId>,
    order: Vec<ValueId>,
    regions: BTreeMap<u32, u32>,
    region_order: Vec<u32>,
}

impl Numbers {
    fn value(&mut self, value: ValueId) {
        if let Entry::Vacant(vacant) = self.values.entry(value) {
            vacant.insert(ValueId(self.order.len() as u32));
            self.order.push(value);
        }
    }

    fn block(&mut self, draft: &Draft, nodes: &[Node]) {
        for node in nodes {
            node.inputs.iter().for_each(|value| self.value(*value));
            for region in node.op.regions() {
                if let Entry::Vacant(vacant) = self.regions.entry(region) {
                    vacant.insert(self.region_order.len() as u32);
                    self.region_order.push(region);
                }
                let Region { parameters, nodes, results } = &draft.regions[region as usize];
                parameters.iter().for_each(|value| self.value(*value));
                self.block(draft, nodes);
                results.iter().for_each(|value| self.value(*value));
            }
            node.outputs.iter().for_each(|value| self.value(*value));
        }
    }
}

enum Pending {
    Done(Source),
    Constant(Placed, DType),
}

/// Makes the program. It consumes the draft, so that each constant can be freed as soon as it is in a
/// blob.
pub(crate) fn finish(mut draft: Draft) -> Result<(Program, Weights), ProgramError> {
    drop_dead_nodes(&mut draft);
    let mut symbols_live = Live::of(&draft).symbols;
    // The node of a check exists if everything that the check mentions exists.
    draft.checks.retain(|check| {
        let mut mentioned = check.left.symbols().into_iter().chain(check.right.symbols());
        mentioned.all(|symbol| symbols_live[symbol.0 as usize])
    });
    draft.checks.append(&mut draft.decisive);
    let mut seen = Vec::new();
    draft.checks.retain(|check| {
        let key = (check.left.clone(), check.right.clone());
        let is_new = !seen.contains(&key);
        seen.push(key);
        is_new
    });
    let mut numbers = Numbers::default();
    draft.inputs.iter().for_each(|port| {
        [Some(port.value), port.high].into_iter().flatten().for_each(|value| numbers.value(value));
    });
    numbers.block(&draft, &draft.nodes);
    draft.results().for_each(|value| numbers.value(value));
    let Numbers { values: new_values, order, regions: new_regions, region_order } = numbers;

    let mut program = Program::new(std::mem::take(&mut draft.name));
    let mut new_symbols: Vec<Symbol> = Vec::new();
    for (info, live) in draft.symbols.iter().zip(&mut symbols_live) {
        // The value that decides a symbol exists, because it is needed.
        new_symbols.push(Symbol(program.symbols.len() as u32));
        if *live {
            program.symbols.push(info.clone());
        }
    }
    let value = |id: &mut ValueId| *id = new_values.get(id).copied().unwrap_or(*id);
    let dim = |dim: &mut Dim| {
        *dim = dim.substituted(&|symbol| Dim::Symbol(new_symbols[symbol.0 as usize]));
    };
    for info in &mut program.symbols {
        match &mut info.source {
            SymbolSource::Input => {}
            SymbolSource::Element { value: id, .. } | SymbolSource::Extent { value: id, .. } => {
                value(id)
            }
        }
    }
    let renumber = |node: &mut Node| {
        node.inputs.iter_mut().chain(&mut node.outputs).for_each(value);
        node.op.dims_mut().into_iter().for_each(dim);
        for region in node.op.regions_mut() {
            *region = new_regions.get(region).copied().unwrap_or(*region);
        }
    };
    program.nodes = std::mem::take(&mut draft.nodes);
    program.regions = region_order
        .iter()
        .map(|region| std::mem::take(&mut draft.regions[*region as usize]))
        .collect();
    program.nodes.iter_mut().for_each(renumber);
    for Region { parameters, nodes, results } in &mut program.regions {
        parameters.iter_mut().chain(results).for_each(value);
        nodes.iter_mut().for_each(renumber);
    }
    program.inputs = std::mem::take(&mut draft.inputs);
    program.outputs = std::mem::take(&mut draft.outputs);
    for port in program.inputs.iter_mut().chain(&mut program.outputs) {
        value(&mut port.value);
        port.high.iter_mut().for_each(value);
    }
    program.assumptions = std::mem::take(&mut draft.assumptions);
    program.bounds = std::mem::take(&mut draft.bounds);
    program.checks = std::mem::take(&mut draft.checks);
    for check in &mut program.checks {
        dim(&mut check.left);
        dim(&mut check.right);
    }

    let mut values: Vec<Option<_>> = draft.values.into_iter().map(Some).collect();
    let mut packer = Packer::new(draft.storage);
    let mut pending: Vec<(DType, Vec<Dim>, Pending)> = Vec::new();
    for old in order {
        let Some(value) = values[old.index()].take() else { continue };
        let source = match value.origin {
            Origin::Input => Pending::Done(Source::Input),
            Origin::Node => Pending::Done(Source::Node),
            Origin::Constant(data) => Pending::Constant(packer.add(data.bytes), data.dtype),
        };
        let mut shape = value.shape;
        shape.iter_mut().for_each(dim);
        pending.push((value.dtype, shape, source));
    }
    let (weights, blobs, shared) = packer.finish();
    program.blobs = blobs;
    program.values = pending
        .into_iter()
        .map(|(dtype, shape, source)| {
            let source = match source {
                Pending::Done(source) => source,
                Pending::Constant(placed, stored) => {
                    Source::Constant(placed.resolve(shared, stored))
                }
            };
            Value { dtype, shape, source }
        })
        .collect();
    narrow(&mut program);
    program.check()?;
    Ok((program, weights))
}

/// Keeps constants as narrow as their data are where every kernel that reads them can.
fn narrow(program: &mut Program) {
    let mut uses: Vec<Vec<(Node, usize)>> = vec![Vec::new(); program.values.len()];
    let stored: Vec<Option<DType>> = program
        .values
        .iter()
        .map(|value| match value.source {
            Source::Constant(constant) => Some(constant.dtype).filter(|dtype| dtype.is_narrow()),
            Source::Input | Source::Node => None,
        })
        .collect();
    for node in program.all_nodes() {
        for (input, value) in node.inputs.iter().enumerate() {
            if stored[value.index()].is_some() {
                uses[value.index()].push((node.clone(), input));
            }
        }
    }
    let mut returned: Vec<ValueId> = program.results().collect();
    returned.extend(program.regions.iter().flat_map(|region| &region.results));
    for (index, dtype) in stored.into_iter().enumerate() {
        let Some(dtype) = dtype.filter(|_| !returned.contains(&ValueId(index as u32))) else {
            continue;
        };
        let before = std::mem::replace(&mut program.values[index].dtype, dtype);
        let is_read = |(node, input): &(Node, usize)| {
            kernel(&node.op).reads_narrow(&Signature { program, node }, *input)
        };
        if uses[index].is_empty() || !uses[index].iter().all(is_read) {
            program.values[index].dtype = before;
        }
    }
}
